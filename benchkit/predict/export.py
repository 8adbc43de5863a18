"""An exported folder: head, encoder and tokenizer, and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

import benchkit
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.protocol import Protocol
from benchkit.core.record import Record
from benchkit.core.settings import parse, plain, read_json
from benchkit.encoder import load_encoder, save_encoder
from benchkit.experiment.config import choose_device
from benchkit.experiment.open_cell import Assembly
from benchkit.predict.model import InputFormat, Model, restore_head
from benchkit.store.features import FeatureSettings
from benchkit.store.files import new_folder

FORMAT = 1
CONFIG, HEAD, ENCODER = "benchkit.json", "head.safetensors", "encoder"


@dataclass(frozen=True)
class HeadPart:
    name: str
    config: Mapping[str, Any]
    source: str
    sha256: str


@dataclass(frozen=True)
class EncoderPart:
    name: str
    fingerprint: str


@dataclass(frozen=True)
class Exported:
    """What `benchkit.json` holds that is read again.

    Raises:
        ValueError: its parts do not fit together.
    """

    name: str
    head: HeadPart
    encoder: EncoderPart
    features: FeatureSettings
    tuned: bool
    threads: int
    tasks: tuple[InputFormat, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 1024:
            raise ValueError(f"threads is {self.threads}")
        if not self.tasks:
            raise ValueError("tasks is empty")
        for task in self.tasks:
            shape, texts = task.shape, len(task.texts)
            if not shape.low < shape.high:
                raise ValueError(f"task {shape.name!r} has no label range")
            if texts not in (1, 2) or shape.segments not in (1, texts) or shape.classes != len(task.classes):
                raise ValueError(f"the shape of task {shape.name!r} is not that of its texts and classes")


def write_export(model: Model, record: Record, folder: Path, more: Callable[[Path], None] | None = None) -> None:
    """Write a folder that `load_exported` reads; it is there only when it is complete.

    Args:
        record: of the cell that the model comes from.
        more: adds files of its own, given the folder.

    Raises:
        UserError: the folder is there and not empty, or cannot be written.
    """
    with new_folder(folder) as inside:
        save_encoder(model.encoder, inside / ENCODER)
        weights = {name: value.detach().cpu().clone() for name, value in model.head.state_dict().items()}
        content = save(weights, metadata={"format": "pt", "cell": record.key})
        (inside / HEAD).write_bytes(content)
        head = record.identity["head"]
        exported = Exported(
            name=model.name,
            head=HeadPart(record.head, head["config"], head["source"], hashlib.sha256(content).hexdigest()),
            encoder=EncoderPart(model.encoder.name, model.encoder.fingerprint),
            features=model.settings,
            tuned=model.tuned,
            threads=model.threads,
            tasks=tuple(model.tasks.values()),
        )
        config = {"format": FORMAT, "benchkit": benchkit.__version__, "cell": record.key, **plain(exported)}
        del config["features"]["device"]
        config["scores"] = [dataclasses.asdict(score) for score in record.phases[-1].scores]
        (inside / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if more:
            more(inside)
        (inside / "README.md").write_text(_readme(model, record, inside), "utf-8")


def _readme(model: Model, record: Record, folder: Path) -> str:
    """Markdown; `folder` is what has been written so far."""
    from jinja2 import Template

    text = (files("benchkit.predict") / "README.md.jinja").read_text("utf-8")
    written: str = Template(text, trim_blocks=True, keep_trailing_newline=True).render(
        model=model,
        record=record,
        graphs=sorted(each.name for each in folder.glob("onnx/*.onnx")),
        longest=min(model.settings.max_length, model.encoder.config.max_position_embeddings),
    )
    return written


def load_exported(folder: str | Path, *, head_files: Sequence[str | Path] = (), device: str = "cpu") -> Model:
    """The model of a folder that `benchkit export` wrote; `load_exported(…).predict(task, texts)` predicts.

    Args:
        head_files: the Python file of a head that is not installed; a folder holds no code.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: there is no such folder, a file in it is missing or damaged, or the head is not installed.
    """
    folder, where = Path(folder), choose_device(device)
    exported = _read_config(folder / CONFIG)
    settings = dataclasses.replace(exported.features, device="cuda" if where.type == "cuda" else "cpu")
    encoder = load_encoder(folder / ENCODER)
    if encoder.fingerprint != exported.encoder.fingerprint:
        raise UserError(f"{folder / ENCODER} is not the encoder that was exported: copy or export the folder again")
    encoder.name = exported.encoder.name
    encoder.check(settings.pooling, settings.layers)
    spec = load_plugins(map(Path, head_files)).head(exported.head.name)
    shapes = tuple(task.shape for task in exported.tasks)
    assembly = Assembly(spec, spec.configure(exported.head.config), Protocol(), (), shapes, settings, encoder)
    head = restore_head(assembly, _read_weights(folder / HEAD, exported.head.sha256))
    changed = spec.source() != exported.head.source
    return Model(
        name=exported.name,
        encoder=encoder.to(where).eval(),
        head=head.to(where).eval(),
        tasks={task.shape.name: task for task in exported.tasks},
        settings=settings,
        tuned=exported.tuned,
        threads=exported.threads,
        notes=(f"the source of head {spec.name!r} is not what it was at the export",) if changed else (),
    )


def _read_config(path: Path) -> Exported:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {CONFIG}: give a folder that benchkit export wrote")
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT} that this benchkit reads: export again")
    try:
        return parse(Exported, values, CONFIG)  # type: ignore[no-any-return]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): export again") from error


def _read_weights(path: Path, sha256: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(f"{path} is not what was exported: copy or export the folder again")
        return load(content)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or export the folder again") from error
