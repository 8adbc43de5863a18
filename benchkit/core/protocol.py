"""A protocol is everything about a comparison but heads, encoder and data: frozen, read from TOML, overridable.

Its fields have dotted names, the same in a TOML file, in `--set` and in records: `pretrain.batch_size`, `pooling`,
`quora.train_size`. Tables named after a task hold that task's fields, tables named after a head that head's config.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchkit.core.errors import UserError, unknown
from benchkit.core.settings import apply

PHASES = ("pretrain", "finetune")
_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class Phase:
    """One phase: `pretrain` with the encoder frozen, `finetune` with everything trained.

    Attributes:
        batch_size: examples (not sentences) of one task in one batch.
        step: what one optimiser step sees. `task`: one batch. `round`: as many consecutive batches as there are tasks,
            their losses summed; with `sampling = "round_robin"` that is one batch of each task. The same batches in
            the same order, but another method: fewer steps, each down a summed loss.
        schedule: of the learning rate over the whole phase, after `warmup` (a fraction of the steps).
        clip: largest norm of the gradient; 0 leaves it as it is.
    """

    epochs: int = 10
    batch_size: int = 64
    step: Literal["task", "round"] = "task"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    clip: float = 0.0

    def __post_init__(self) -> None:
        for name, low in (
            ("epochs", 1),
            ("batch_size", 1),
            ("learning_rate", 0),
            ("weight_decay", 0),
            ("clip", 0),
        ):
            value = getattr(self, name)
            if not value >= low or value == float("inf"):
                raise ValueError(f"{name} must be a finite number, at least {low}, not {value}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction of the steps, from 0 to below 1, not {self.warmup}")


@dataclass(frozen=True)
class TaskOptions:
    """What a protocol says of one task. A size of 0 means all rows; a smaller one draws a subset that keeps
    the class balance. `loss` "" is the task's default.
    """

    train_size: int = 0
    dev_size: int = 0
    test_size: int = 0
    loss: str = ""

    def __post_init__(self) -> None:
        for name in ("train_size", "dev_size", "test_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 (0 means all rows), not {getattr(self, name)}")


@dataclass(frozen=True)
class Protocol:
    """The recipe of a comparison.

    Attributes:
        encoder, data: used where the user names none; "" demands one.
        heads: the heads compared where the user names none.
        seeds: how many seeds a head, counted from 0, where the user says nothing.
        phases: the phases of a run, where the user says nothing.
        pooling: `cls`, `mean`, `max` or `pooler`, over the hidden states of `layers` (0 = embeddings, -1 = last),
            concatenated.
        pair_input: a pair's sentences encoded apart (`separate`) or as one input (`joint`).
        sampling: order of task batches. `proportional`: each task's batches, shuffled together; `round_robin`: tasks
            in turn; `annealed`: by size to the power 1 - 0.8 (epoch-1)/(epochs-1) (Stickland & Murray 2019, PALs).
        subsample_seed: draws the subsets; the same for all seeds, so that seeds differ in training alone.
    """

    name: str = "custom"
    summary: str = ""
    encoder: str = ""
    data: str = ""
    heads: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("sst", "quora", "sts")
    seeds: int = 3
    phases: tuple[str, ...] = PHASES
    pooling: str = "cls"
    layers: tuple[int, ...] = (-1,)
    pair_input: Literal["separate", "joint"] = "separate"
    max_length: int = 512
    sampling: Literal["proportional", "round_robin", "annealed"] = "proportional"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    subsample_seed: int = 0
    pretrain: Phase = field(default_factory=Phase)
    finetune: Phase = field(default_factory=lambda: Phase(epochs=25, batch_size=8, learning_rate=1e-6))
    task_options: Mapping[str, TaskOptions] = field(default_factory=dict)
    head_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def options(self, task: str) -> TaskOptions:
        return self.task_options.get(task, TaskOptions())

    def phase(self, name: str) -> Phase:
        return {"pretrain": self.pretrain, "finetune": self.finetune}[name]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Protocol:
        """Inverse of `settings.plain`."""
        tuples = {name: tuple(values[name]) for name in ("heads", "tasks", "phases", "layers")}
        phases = {name: Phase(**values[name]) for name in PHASES}
        options = {name: TaskOptions(**each) for name, each in values["task_options"].items()}
        return Protocol(**{**values, **tuples, **phases, "task_options": options})


def presets() -> list[str]:
    """Names of the protocols that ship with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def load_preset(name: str, tasks: Iterable[str], heads: Iterable[str]) -> Protocol:
    """A shipped protocol.

    Raises:
        UserError: there is none of that name.
    """
    if name not in presets():
        raise unknown("preset", name, presets())
    tasks, heads = tuple(tasks), tuple(heads)
    values = tomllib.loads((_folder() / f"{name}.toml").read_text("utf-8"))
    # A preset speaks of tasks that may not be installed here (BENCHKIT_PLUGINS); whoever trains them will ask for them.
    here = {*PHASES, *tasks, *heads}
    values = {table: value for table, value in values.items() if table in here or not isinstance(value, Mapping)}
    return override(Protocol(name=name), values, tasks, heads)


def load_file(path: Path, tasks: Iterable[str], heads: Iterable[str]) -> Protocol:
    """A protocol from a TOML file; `base = "paper"` starts from a preset, else from the defaults.

    Raises:
        UserError: missing file, broken TOML, unknown field or wrong type.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read protocol {path}: {getattr(error, 'strerror', None) or error}") from error
    except RecursionError:
        raise UserError(f"protocol {path} is nested too deeply to be read as TOML") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"protocol {path} is not TOML: {error}") from error
    base = values.pop("base", None)
    tasks, heads = tuple(tasks), tuple(heads)
    try:
        start = load_preset(str(base), tasks, heads) if base else Protocol()
        return override(replace(start, name=path.stem), values, tasks, heads)
    except UserError as error:
        raise UserError(f"protocol {path}: {error}") from error


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`["pooling=mean", "cnn.dropout=0.1"]` as nested data.

    Raises:
        UserError: one has no `=`.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UserError(f"--set takes field=value, such as pretrain.epochs=3, not {pair!r}")
        table, dot, leaf = name.strip().partition(".")
        if dot:
            if not isinstance(values.setdefault(table, {}), dict):
                raise UserError(f"--set {pair}: {table!r} was set to a value before")
            values[table][leaf] = value.strip()
        else:
            values[table] = value.strip()
    return values


def override(protocol: Protocol, values: Mapping[str, Any], tasks: Iterable[str], heads: Iterable[str]) -> Protocol:
    """A copy with nested `values` set: plain fields, phase tables, and tables named after a task or a head.

    Raises:
        UserError: unknown field or table, or a wrong type; a head's own fields are checked when it is configured.
    """
    tasks, heads = set(tasks), set(heads)
    simple = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    internal = {"pretrain", "finetune", "task_options", "head_options"}
    known = [name for name in Protocol.__dataclass_fields__ if name not in internal]
    for name in simple:
        if name not in known:
            raise unknown("field", name, [*known, *(f"{table}.…" for table in (*PHASES, *sorted(tasks | heads)))])
    result = _apply(protocol, simple, "")
    for table, fields in values.items():
        if not isinstance(fields, Mapping):
            continue
        if table in PHASES:
            changes: dict[str, Any] = {table: _apply(result.phase(table), fields, table)}
            result = replace(result, **changes)
        elif table in tasks:
            options = _apply(result.options(table), fields, table)
            result = replace(result, task_options={**result.task_options, table: options})
        elif table in heads:
            merged = {**result.head_options.get(table, {}), **fields}
            result = replace(result, head_options={**result.head_options, table: merged})
        else:
            raise unknown("table", table, [*PHASES, *tasks, *heads])
    return _checked(result)


def _apply(settings: _Settings, values: Mapping[str, Any], table: str) -> _Settings:
    try:
        return apply(settings, values, table)
    except ValueError as error:  # refused by the dataclass itself, which does not know its table's name
        raise UserError(f"{table}.{error}" if table else str(error)) from error


def _checked(protocol: Protocol) -> Protocol:
    for phase in protocol.phases:
        if phase not in PHASES:
            raise unknown("phase", phase, PHASES)
    if not protocol.phases:
        raise UserError(f"phases is empty: name {' or '.join(PHASES)}, or both")
    if list(protocol.phases) != [name for name in PHASES if name in protocol.phases]:
        raise UserError(f"phases run in the order {', '.join(PHASES)}, each once, not {', '.join(protocol.phases)}")
    if protocol.pooling not in ("cls", "mean", "max", "pooler"):
        raise unknown("pooling", protocol.pooling, ("cls", "mean", "max", "pooler"))
    if protocol.seeds < 1:
        raise UserError(f"seeds must be at least 1, not {protocol.seeds}")
    if not protocol.layers:
        raise UserError("layers is empty: -1 is the last layer")
    if protocol.max_length < 4:
        raise UserError(f"max_length must be at least 4 ([CLS], a word piece, two [SEP]), not {protocol.max_length}")
    return protocol


def _folder() -> Any:
    return files("benchkit.core") / "presets"
