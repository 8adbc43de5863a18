"""Fetching an encoder into a folder that `--encoder` reads."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchkit.core.errors import UserError
from benchkit.core.settings import read_json
from benchkit.hub.download import Downloader, Listing, Patience, Stage, Watch, look_up, look_up_offline, staged
from benchkit.hub.record import NAME, Fetched, RemoteFile, damage, named, read_record, sums
from benchkit.store.files import hub_root

if TYPE_CHECKING:
    from benchkit.encoder import Encoder


SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
TOKENIZERS = ("tokenizer.json", "vocab.txt")
POOLING = "1_Pooling/config.json"
_SMALL = ("config.json", *TOKENIZERS, "tokenizer_config.json", POOLING)
_OTHER_WEIGHTS = {".h5": "TensorFlow", ".msgpack": "Flax", ".ckpt.index": "TensorFlow", ".onnx": "ONNX"}


def encoders_root() -> Path:
    return hub_root() / "encoders"


def fetch_encoder(repo: str, revision: str, watch: Watch, patience: Patience | None = None) -> Fetched:
    """Fetch, check, load once and place an encoder; nothing is done where it is there already, whole.

    Args:
        revision: a commit, branch or tag; "" for `main`, or for the one that is there.

    Raises:
        UserError: it cannot be had, is not what the hub says it is, or is no encoder that can be loaded.
    """
    _check_name(repo)
    patience, place = patience or Patience(), encoders_root() / repo
    with staged(f"encoder-{repo}") as stage:
        record = read_record(place)
        if record and (not revision or record.revision.startswith(revision)) and not damage(place, record):
            watch.say(
                f"{repo} is there already, whole, at {record.revision[:12]}; --revision main looks for a newer one"
            )
            return record
        listing = _look_up(repo, revision or "main", watch, patience)
        downloader = Downloader(
            repo, "model", listing.revision, stage.raw.parent, watch, patience, advice(repo, listing.revision)
        )
        files = _take(downloader, listing, stage)
        encoder = _convert(stage) if PICKLED in listing.files and SAFE not in listing.files else _keep(stage)
        record = _describe(listing, files, stage, encoder)
        record.write(stage.new)
        stage.place(place)
    return record


def advice(repo: str, revision: str) -> str:
    """How to go on without the hub, for the end of a message."""
    return f"by hand: get the files of {repo} at {revision} elsewhere and give their folder: --encoder DIR"


def _check_name(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"{repo!r} cannot be on the hub: an id looks like owner/name or name") from None


def _look_up(repo: str, revision: str, watch: Watch, patience: Patience) -> Listing:
    """What the hub says; where it may not be asked, what is in its library's cache."""
    from huggingface_hub.constants import is_offline_mode

    if is_offline_mode():
        found = look_up_offline(repo, "model", revision, (*_SMALL, SAFE, PICKLED))
        if found:
            return found
    return look_up(repo, "model", revision, watch, patience, advice(repo, revision))


def _take(downloader: Downloader, listing: Listing, stage: Stage) -> list[RemoteFile]:
    """The files that are needed, small ones first: what cannot be loaded is refused before its weights are fetched.

    Raises:
        UserError: it cannot be loaded.
    """
    from benchkit.encoder.checkpoint import read_config

    where = f"{listing.repo} at {listing.revision[:12]}"
    if "config.json" not in listing.files:
        raise UserError(f"{where} has no config.json: it is not an encoder in Hugging Face's layout")
    weights = _weights(listing, where)
    small = [listing.files[name] for name in _SMALL if name in listing.files]
    stage.take(downloader, small[:1])
    read_config(stage.raw / "config.json", where)
    if not any(name in listing.files for name in TOKENIZERS):
        raise UserError(f"{where} has no {' and no '.join(TOKENIZERS)}: one of them is needed")
    files = [*small, listing.files[weights]]
    stage.take(downloader, files)
    stage.only(files)
    return files


def _weights(listing: Listing, where: str) -> str:
    """The file of weights to fetch.

    Raises:
        UserError: there is none that can be read.
    """
    for name in (SAFE, PICKLED):
        if name in listing.files:
            return name
        if f"{name}.index.json" in listing.files:
            raise UserError(f"{where} has its weights in several files; only one {SAFE} or {PICKLED} can be read")
    for path in listing.files:
        for suffix, kind in _OTHER_WEIGHTS.items():
            if path.endswith(suffix) and "/" not in path:
                raise UserError(f"{where} has its weights for {kind} alone ({path}): {SAFE} or {PICKLED} is needed")
    raise UserError(f"{where} has no {SAFE} and no {PICKLED}: one of them must hold the weights")


def _keep(stage: Stage) -> Encoder:
    from benchkit.encoder import load_encoder

    encoder = load_encoder(stage.raw)
    _move([path for path in stage.raw.rglob("*") if path.is_file()], stage)
    return encoder


def _convert(stage: Stage) -> Encoder:
    """Pickled weights, read as tensors and nothing else, become `model.safetensors` with a `config.json` of its own."""
    from benchkit.encoder import load_encoder
    from benchkit.encoder.checkpoint import write_model

    encoder = load_encoder(stage.raw)
    write_model(encoder.model, stage.new)
    kept = [stage.raw / name for name in _SMALL[1:] if (stage.raw / name).is_file()]
    _move(kept, stage)
    return encoder


def _move(paths: list[Path], stage: Stage) -> None:
    for path in paths:
        target = stage.new / path.relative_to(stage.raw)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def _describe(listing: Listing, files: list[RemoteFile], stage: Stage, encoder: Encoder) -> Fetched:
    made = [path.relative_to(stage.new).as_posix() for path in stage.new.rglob("*") if path.is_file()]
    return Fetched(
        repo=listing.repo,
        revision=listing.revision,
        pinned="hub",
        source={file.path: named(file) for file in files},
        files=sums(stage.new, made),
        licence=listing.licence,
        fingerprint=encoder.fingerprint,
        parameters=encoder.parameters,
        notes=encoder.notes,
    )


def fetched_encoders() -> dict[str, Path]:
    """Folders of what has been fetched, by id."""
    root = encoders_root()
    found = sorted(path.parent for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{NAME}"))
    return {folder.relative_to(root).as_posix(): folder for folder in found}


def fetched_folder(name: str) -> Path | None:
    """The folder of a fetched encoder, by its id or, where only one has it, by the id's last part."""
    found = fetched_encoders()
    if name in found:
        return found[name]
    short = [folder for repo, folder in found.items() if repo.rpartition("/")[2] == name]
    return short[0] if len(short) == 1 else None


def pooling_advice(folder: Path) -> str:
    """The pooling that a sentence encoder was trained with, as its `1_Pooling/config.json` says; "" without one."""
    try:
        values = read_json(folder / POOLING)
    except UserError:
        return ""
    if isinstance(mode := values.get("pooling_mode"), str):
        return mode
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    chosen = [ours for theirs, ours in modes.items() if values.get(f"pooling_mode_{theirs}")]
    return " and ".join(chosen)


def convert_encoder(encoder: Encoder, source: Path | None, folder: Path) -> None:
    """Write an encoder as a folder in Hugging Face's BERT layout: float32 safetensors, whatever it was before.

    Raises:
        UserError: the folder is there and not empty, or cannot be written.
    """
    from benchkit.encoder import save_encoder
    from benchkit.store.files import writing

    taken = UserError(f"{folder} is there already: name a new folder")
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise taken
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A name that nobody can know before: another process writes elsewhere, and no planted link is followed.
        with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary:
            part = Path(temporary) / folder.name
            save_encoder(encoder, part)
            if source and (source / POOLING).is_file():
                (part / POOLING).parent.mkdir()
                shutil.copyfile(source / POOLING, part / POOLING)
            try:
                part.replace(folder)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # another process was faster
                    raise taken from None
                raise
