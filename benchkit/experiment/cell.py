"""A cell: one (head config, protocol, encoder, data, seed). The unit of running, caching, resuming and comparing.

A cell is plain data, so that it can be carried to another process or machine and run there.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchkit.core.errors import UserError, unknown
from benchkit.core.head import HeadSpec
from benchkit.core.protocol import OWN_LOSS, Protocol
from benchkit.core.record import Record
from benchkit.core.settings import parse, plain
from benchkit.core.source import TRAINING, code_hash, numeric_versions, package_files, short_hashes
from benchkit.core.task import SPLITS, Loss, TaskSpec
from benchkit.data import Split

# The splits of a cell that is blind to test.
BLIND = ("train", "dev")


@dataclass(frozen=True)
class Execution:
    """How a cell runs, as far as it can change a number in its last bits.

    Attributes:
        cuda_graph: steps of fixed shapes, captured once and replayed (`benchkit.training.cuda_graphs`).
        compiled: the encoder's layers by `torch.compile`, where it is trained.
    """

    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 1
    feature_cache: bool = True
    cuda_graph: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Cell:
    """What to run, self-contained.

    Attributes:
        key: the first 16 hex digits of the hash of `identity`.
        encoder, data: names or folders, as the process that runs the cell can open them.
        head_files: files with heads that are not installed.
        identity: everything that can change the numbers, by part; `key` is its hash.
        kept_encoder: `all`: store the encoder of every fine-tuning cell; `best`: only that of a head's best seed, so
            each is stored until a better one replaces it; `none`. It does not change a cell's numbers.
        encoder_dtype: `bf16` or `fp32`: the type in which its matrices are stored.
        splits: the splits that the cell may read. The trainer gets neither rows nor labels of the others: a cell
            without `test` cannot be scored on it.
        interference: measure it during training; not part of the key, since it changes no number.
        sources: see `sources_of`; not part of the key. It names the files behind the key's hashes.
    """

    key: str
    head: str
    config: Mapping[str, Any]
    seed: int
    protocol: Protocol
    encoder: str
    data: str
    execution: Execution
    head_files: tuple[str, ...]
    identity: Mapping[str, Any]
    splits: tuple[str, ...] = SPLITS
    kept_encoder: str = "best"
    encoder_dtype: str = "bf16"
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    interference: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Cell:
        cell: Cell = parse(Cell, json.loads(text))
        return cell

    @property
    def keeps_encoder(self) -> bool:
        """Whether the cell trains an encoder and has to store it."""
        return self.kept_encoder != "none" and self.protocol.trains_encoder

    @property
    def label(self) -> str:
        return f"{self.head} seed {self.seed}"

    def answered(self, record: Record | None) -> bool:
        """Whether a stored record has everything that the cell asks for. Failed cells are run again."""
        if record is None or record.status == "failed":
            return False
        return not self.interference or all(phase.interference is not None for phase in record.phases)

    def trial(self, config: Mapping[str, Any], protocol: Protocol) -> Cell:
        """The same cell with another config and protocol, and without test: a trial of a search."""
        changes = {"base": self.key, "config": dict(config), "protocol": plain(protocol), "splits": list(BLIND)}
        identity = {"encoder": self.identity["encoder"], **changes}
        return dataclasses.replace(
            self, key=key_of(identity), config=config, protocol=protocol, identity=identity, splits=BLIND
        )


def key_of(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def identity_of(
    spec: HeadSpec,
    config: Any,
    seed: int,
    protocol: Protocol,
    tasks: Sequence[TaskSpec],
    data: Mapping[str, Mapping[str, Split]],
    encoder_fingerprint: str,
    execution: Execution,
) -> dict[str, Any]:
    """The parts of a cell's key. A change in any of them makes another cell."""
    return {
        "head": head_part(spec, config),
        "protocol": protocol.identity(),
        "tasks": tasks_part(spec, config, tasks, protocol),
        "data": data_part(tasks, data),
        "encoder": encoder_fingerprint,
        "seed": seed,
        "engine": engine_part(),
        "execution": dataclasses.asdict(execution),
    }


def head_part(spec: HeadSpec, config: Any) -> dict[str, Any]:
    return {"name": spec.name, "config": plain(config), "source": spec.source()}


def tasks_part(spec: HeadSpec, config: Any, tasks: Sequence[TaskSpec], protocol: Protocol) -> list[dict[str, Any]]:
    """A list, since the order of tasks decides the order of batches and of initial weights."""
    losses = losses_of(spec, config, tasks, protocol)
    return [
        {
            "name": task.name,
            "classes": list(task.classes),
            "range": [task.low, task.high],
            "similar": task.similar,
            "loss": losses[task.name][0],
            "metric": task.metric.name,
            "source": code_hash(_task_files(task, losses[task.name][1], protocol)),
            "joint": protocol.joint(task.name),
        }
        for task in tasks
    ]


def data_part(tasks: Sequence[TaskSpec], data: Mapping[str, Mapping[str, Split]]) -> dict[str, dict[str, str]]:
    return {task.name: {name: split.digest() for name, split in data[task.name].items()} for task in tasks}


def engine_part() -> dict[str, str]:
    from benchkit.encoder.attention import kernels

    return {"source": code_hash(package_files(TRAINING)), "kernels": kernels(), **numeric_versions()}


def sources_of(spec: HeadSpec, config: Any, tasks: Sequence[TaskSpec], protocol: Protocol) -> dict[str, dict[str, str]]:
    """A short hash of each file that a cell's identity hashes, so that a message can name the file that changed."""
    files = {"head": spec.files(), "engine": package_files(TRAINING)}
    losses = losses_of(spec, config, tasks, protocol)
    files |= {f"tasks.{task.name}": _task_files(task, losses[task.name][1], protocol) for task in tasks}
    return {part: short_hashes(each) for part, each in files.items()}


def losses_of(
    spec: HeadSpec, config: Any, tasks: Sequence[TaskSpec], protocol: Protocol, phase: str = ""
) -> dict[str, tuple[str, Loss]]:
    """The name and the function of the loss that a head is trained with, by task.

    The first of these that is given is used: the phase's loss, the protocol's, the head's, the task's first. A function
    that the head defines is named `head:NAME`.

    Raises:
        UserError: the head asks for a loss that the task does not have.
    """
    found = {}
    of_phase = protocol.phase(phase).losses if phase else {}
    for task, shape in zip(tasks, protocol.shapes(tasks), strict=True):
        asked = spec.loss(config, shape) if spec.loss else ""
        given = of_phase.get(task.name) or protocol.options(task.name).loss
        if callable(asked) and not given:
            found[task.name] = (f"{OWN_LOSS}{getattr(asked, '__name__', type(asked).__name__)}", asked)
            continue
        if isinstance(asked, str) and asked and asked not in task.losses:
            raise unknown(f"loss of {task.name} that head {spec.name!r} asks for,", asked, task.losses)
        name = given or (asked if isinstance(asked, str) else "") or next(iter(task.losses))
        found[task.name] = (name, task.losses[name])
    return found


def _task_files(task: TaskSpec, loss: Loss, protocol: Protocol) -> dict[str, Path]:
    """The files of a task's losses and metric, by what is in them.

    Raises:
        UserError: one of them has no source file.
    """
    files = {"loss": _file_of(loss, task), "metric": _file_of(task.metric.score, task)}
    for phase in protocol.phases:
        if name := protocol.phase(phase).losses.get(task.name):
            files[f"loss of {phase}"] = _file_of(task.losses[name], task)
    return {f"{part} in {file.name}": file for part, file in files.items()}


def _file_of(function: Any, task: TaskSpec) -> Path:
    """The source file of a loss or metric: of a partial's function, or of a callable object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    try:
        file = inspect.getsourcefile(function if inspect.isroutine(function) else type(function))
    except TypeError:
        file = None
    if file is None:
        raise UserError(f"task {task.name!r}: {function!r} has no source file, so its results could not be keyed")
    return Path(file)
