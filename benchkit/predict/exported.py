"""A folder that holds a model by itself: encoder, head and config, no pickle; and a model from such a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import benchkit
from benchkit.encoder import load_encoder, save_encoder
from benchkit.errors import UserError
from benchkit.plugins import load_plugins
from benchkit.predict.folder import new_folder
from benchkit.predict.load import fill_head
from benchkit.predict.model import Model, Question
from benchkit.predict.readme import readme
from benchkit.record import Record
from benchkit.runner.request import choose_device
from benchkit.runner.workspace import build_head
from benchkit.settings import plain
from benchkit.store.features import FeatureSettings
from benchkit.task import TaskShape

FORMAT = 1
CONFIG, HEAD, ENCODER = "benchkit.json", "head.safetensors", "encoder"


def write_export(model: Model, record: Record, folder: Path, more: Callable[[Path], None] | None = None) -> None:
    """Write a folder that `load_exported` reads; it is there only when it is whole.

    Args:
        record: of the cell that the model comes from.
        more: adds files of its own, given the folder.

    Raises:
        UserError: the folder is there and not empty, or cannot be written.
    """
    with new_folder(folder) as inside:
        save_encoder(model.encoder, inside / ENCODER)
        weights = {name: value.detach().cpu().clone() for name, value in model.head.state_dict().items()}
        save_file(weights, inside / HEAD, metadata={"format": "pt", "cell": record.key})
        config = _config(model, record, hashlib.sha256((inside / HEAD).read_bytes()).hexdigest())
        (inside / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if more:
            more(inside)
        (inside / "README.md").write_text(readme(model, record, inside), "utf-8")


def load_exported(folder: str | Path, *, head_files: Sequence[str | Path] = (), device: str = "cpu") -> Model:
    """The model of a folder that `benchkit export` wrote; `load_exported(…).predict(task, texts)` gives the answers.

    Args:
        head_files: the Python file of a head that is not installed; a folder holds no code.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        UserError: there is no such folder, a file in it is missing or damaged, or the head is not installed.
    """
    folder, where = Path(folder), choose_device(device)
    config = _read_config(folder)
    encoder = load_encoder(folder / ENCODER)
    if encoder.fingerprint != config["encoder"]["fingerprint"]:
        raise UserError(f"{folder / ENCODER} is not the encoder that was exported: copy or export the folder again")
    encoder.name = config["encoder"]["name"]
    spec = load_plugins(map(Path, head_files)).head(config["head"]["name"])
    features = {**config["features"], "layers": tuple(config["features"]["layers"]), "device": where.type}
    settings = FeatureSettings(**features)
    questions = {each["shape"]["name"]: _question(each) for each in config["tasks"]}
    shapes = [question.shape for question in questions.values()]
    head = build_head(spec, spec.configure(config["head"]["config"]), encoder, settings, shapes)
    fill_head(head, _read_weights(folder / HEAD, config["head"]["sha256"]), spec)
    changed = spec.source() != config["head"]["source"]
    return Model(
        name=config["name"],
        encoder=encoder.to(where).eval(),
        head=head.to(where).eval(),
        questions=questions,
        settings=settings,
        joint=config["joint"],
        tuned=config["tuned"],
        threads=config["threads"],
        notes=(f"the source of head {spec.name!r} is not what it was at the export",) if changed else (),
    )


def _config(model: Model, record: Record, sha256: str) -> dict[str, Any]:
    head = record.identity["head"]
    features = {name: value for name, value in plain(model.settings).items() if name != "device"}
    return {
        "format": FORMAT,
        "benchkit": benchkit.__version__,
        "name": model.name,
        "cell": record.key,
        "head": {"name": record.head, "config": head["config"], "source": head["source"], "sha256": sha256},
        "encoder": {"name": model.encoder.name, "fingerprint": model.encoder.fingerprint},
        "features": features,
        "joint": model.joint,
        "tuned": model.tuned,
        "threads": model.threads,
        "tasks": [dataclasses.asdict(question) for question in model.questions.values()],
        "scores": [dataclasses.asdict(score) for score in record.phases[-1].scores],
    }


def _question(values: Mapping[str, Any]) -> Question:
    aliases = {name: tuple(others) for name, others in values["aliases"].items()}
    return Question(TaskShape(**values["shape"]), tuple(values["texts"]), tuple(values["classes"]), aliases)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no {CONFIG}: give a folder that benchkit export wrote") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): export again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT} that this benchkit reads: export again")
    return config


def _read_weights(path: Path, sha256: str) -> dict[str, Any]:
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise UserError(f"{path} is not what was exported: copy or export the folder again")
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}): copy or export the folder again") from error
