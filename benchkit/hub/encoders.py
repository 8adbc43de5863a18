"""Fetching an encoder into a folder that `--encoder` reads."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchkit.core.errors import UserError
from benchkit.core.progress import Progress
from benchkit.core.settings import read_json
from benchkit.hub import download as hub
from benchkit.store.files import hub_root, new_folder

if TYPE_CHECKING:
    from benchkit.encoder import Encoder


SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
TOKENIZERS = ("tokenizer.json", "vocab.txt")
POOLING = "1_Pooling/config.json"
_SMALL = ("config.json", *TOKENIZERS, "tokenizer_config.json", POOLING)
_OTHER_WEIGHTS = {".h5": "TensorFlow", ".msgpack": "Flax", ".ckpt.index": "TensorFlow", ".onnx": "ONNX"}


def encoders_root() -> Path:
    return hub_root() / "encoders"


def check_name(repo: str) -> None:
    """Refuse what cannot be the id of a repository; an id becomes a local path."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise UserError(f"{repo!r} cannot be on the hub: an id looks like owner/name or name") from None


def fetch_encoder(repo: str, revision: str, progress: Progress) -> hub.Fetched:
    """Fetch, check, load once and place an encoder; nothing is done where it is there already, complete.

    Args:
        revision: a commit, branch or tag; "" for `main`, or for the one that is there.

    Raises:
        UserError: it cannot be had, is not what the hub says it is, or is no encoder that can be loaded.
    """
    from benchkit.encoder import load_encoder
    from benchkit.encoder.checkpoint import write_model

    check_name(repo)
    place = encoders_root() / repo
    with hub.staged(f"encoder-{repo}", progress) as stage:
        record = hub.read_record(place)
        if record and (not revision or record.revision.startswith(revision)) and not hub.damage(place, record):
            at = record.revision[:12]
            progress.say(f"{repo} is there already, complete, at {at}; --revision main looks for a newer one")
            return record
        repository = _find(repo, revision or "main")
        paths = _take(repository, stage)
        encoder = load_encoder(stage.raw)
        if PICKLED in paths:  # read as tensors and nothing else
            write_model(encoder.model, stage.new)
        for path in [path for path in paths if not (stage.new / path).exists() and path != PICKLED]:
            target = stage.new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (stage.raw / path).replace(target)
        about = {"fingerprint": encoder.fingerprint, "parameters": encoder.parameters, "notes": encoder.notes}
        return stage.place(place, repository, paths, pinned="hub", licence=repository.licence, **about)


def _find(repo: str, revision: str) -> hub.Repository:
    """What the hub says; where it may not be asked, what is in its library's cache."""
    from huggingface_hub.constants import is_offline_mode

    def advice(at: str) -> str:
        return f"by hand: get the files of {repo} at {at} elsewhere and give their folder: --encoder DIR"

    found = None
    if is_offline_mode():
        found = _look_up_cached(repo, revision, advice(revision))
    found = found or hub.look_up(repo, "model", revision, advice(revision))
    return replace(found, advice=advice(found.revision))


def _look_up_cached(repo: str, revision: str, advice: str) -> hub.Repository | None:
    """What the cache of the hub's own library ($HF_HOME) holds of an encoder, or None."""
    from huggingface_hub import try_to_load_from_cache

    files, commit = {}, ""
    for path in (*_SMALL, SAFE, PICKLED):
        found = try_to_load_from_cache(repo, path, revision=revision, repo_type="model")
        if isinstance(found, str):
            name = Path(found).resolve().name  # the cache names a file by its id
            sha256, blob = (name if re.fullmatch(f"[0-9a-f]{{{length}}}", name) else "" for length in (64, 40))
            files[path] = hub.RemoteFile(path, None, sha256, blob)
            commit = Path(found).parents[path.count("/")].name
    return hub.Repository(repo, "model", commit, files, advice) if files else None


def _take(repository: hub.Repository, stage: hub.Stage) -> list[str]:
    """The files that are needed, small ones first: what cannot be loaded is refused before its weights are fetched.

    Raises:
        UserError: it cannot be loaded.
    """
    from benchkit.encoder.checkpoint import read_config

    where, files = str(repository), repository.files
    if "config.json" not in files:
        raise UserError(f"{where} has no config.json: it is not an encoder in Hugging Face's layout")
    weights = _weights(repository)
    stage.take(repository, ["config.json"])
    read_config(stage.raw / "config.json", where)
    if not any(name in files for name in TOKENIZERS):
        raise UserError(f"{where} has no {' and no '.join(TOKENIZERS)}: one of them is needed")
    paths = [*(name for name in _SMALL if name in files), weights]
    stage.take(repository, paths)
    for path in stage.raw.rglob("*"):  # left by an earlier try of another revision
        if path.is_file() and path.relative_to(stage.raw).as_posix() not in paths:
            path.unlink()
    return paths


def _weights(repository: hub.Repository) -> str:
    """The file of weights to fetch.

    Raises:
        UserError: there is none that can be read.
    """
    for name in (SAFE, PICKLED):
        if name in repository.files:
            return name
        if f"{name}.index.json" in repository.files:
            raise UserError(f"{repository} has its weights in several files; only one {SAFE} or {PICKLED} can be read")
    for path in repository.files:
        for suffix, kind in _OTHER_WEIGHTS.items():
            if path.endswith(suffix) and "/" not in path:
                raise UserError(f"{repository} has its weights for {kind} alone: {SAFE} or {PICKLED} is needed")
    raise UserError(f"{repository} has no {SAFE} and no {PICKLED}: one of them must hold the weights")


def fetched_encoders() -> dict[str, Path]:
    """Folders of what has been fetched, by id."""
    root = encoders_root()
    found = sorted(path.parent for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{hub.NAME}"))
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
        return mode if mode.isidentifier() else ""
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max"}
    return " and ".join(ours for theirs, ours in modes.items() if values.get(f"pooling_mode_{theirs}"))


def convert_encoder(encoder: Encoder, source: Path | None, folder: Path) -> None:
    """Write an encoder as a folder in Hugging Face's BERT layout: float32 safetensors, whatever it was before.

    Raises:
        UserError: the folder is there and not empty, or cannot be written; nothing is left of it then.
    """
    from benchkit.encoder import save_encoder

    with new_folder(folder) as inside:
        save_encoder(encoder, inside)
        if source and (source / POOLING).is_file():
            (inside / POOLING).parent.mkdir()
            shutil.copyfile(source / POOLING, inside / POOLING)
