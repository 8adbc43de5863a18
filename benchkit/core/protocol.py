"""A protocol is everything about a comparison but heads, encoder and data: frozen, read from TOML, overridable.

Its fields have dotted names, the same in a TOML file, in `--set` and in records: `pooling`, `quora.train_size`. Tables
named after a phase hold that phase's settings, tables named after a task that task's options, and tables named after a
head that head's config. Phases are data: a file that lists a new name in `phases` defines it by a table of that name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from benchkit.core.errors import UserError, unknown
from benchkit.core.features import Pooling
from benchkit.core.settings import apply, plain
from benchkit.core.task import TaskShape, TaskSpec

_PARTLY = re.compile(r"(top|lora):[1-9]\d{0,3}")
_TABLES = ("phase_settings", "task_options", "head_options")
_NOT_NUMERIC = ("name", "summary", "encoder", "data", "heads", "tasks", "seeds", "precision", *_TABLES)
OWN_LOSS = "head:"
"""Before the name of a loss that a head brings."""
_NOT_NEGATIVE = ("learning_rate", "weight_decay", "clip", "encoder_learning_rate", "patience", "r_drop", "ranking")
_BASE = "_base"  # the file that every protocol starts from
_Settings = TypeVar("_Settings")

MOST_SEEDS = 10_000
"""Of a head: each is a cell with its files, and all are listed before the first is run."""
_MOST = {"epochs": 1_000_000, "batch_size": 2**24, "patience": 1_000_000}


@dataclass(frozen=True)
class Phase:
    """The settings of one phase of training.

    Attributes:
        trains: `head`: the head alone, on features of the frozen encoder; `top:k`: also the encoder's highest k layers
            and its pooler; `lora:r`: low-rank changes of rank r of all its layers' matrices, which are merged into them
            at the end (Hu et al. 2021); `all`: the head and the whole encoder. What lies below `top:k` is encoded once.
        epochs: passes over as many batches as all tasks have.
        batch_size: examples (not sentences) of one task in one batch.
        step: what one optimiser step sees. `task`: one batch. `round`: as many consecutive batches as there are tasks,
            their losses summed; with `sampling = "round_robin"` that is one batch of each task. The same batches in
            the same order, but another method: fewer steps, each down a summed loss.
        learning_rate: of AdamW, at its highest.
        weight_decay: of AdamW, decoupled from the gradient.
        schedule: of the learning rate over the whole phase, after `warmup`: constant, or falling to 0.
        warmup: fraction of the steps in which the rate rises from 0.
        clip: largest norm of the gradient; 0 leaves it as it is.
        encoder_learning_rate: of the encoder's highest layer and pooler; 0 is `learning_rate`, the head's.
        layer_decay: each lower layer's rate is that of the layer above it times this, the embeddings' the lowest
            (Howard & Ruder 2018; Clark et al. 2020).
        decays: what `weight_decay` applies to: `all` parameters, or `matrices` and no biases or norms (Devlin et al.
            2018).
        patience: the phase ends after so many epochs without a better dev score; 0 runs all epochs.
        average: weights are scored and kept as their exponential moving average over steps with this decay, such as
            0.999 (Polyak & Juditsky 1992); 0 keeps the last step's.
        r_drop: each batch is computed twice, with other dropout, and the two outputs are pulled towards each other with
            this weight (Wu et al. 2021): by their symmetric Kullback-Leibler divergence; for a regression, by the
            square of their difference over the label range. Twice the work a step; 0 does without.
        ranking: weight of multiple-negatives ranking (Henderson et al. 2017), added to the loss of each pair task that
            says which labels mean the same: the encoder's vector of a sentence has to find that of its partner in the
            batch. 0 does without.
        ranking_only: train the encoder by `ranking` alone, on those tasks' batches: a phase to come before the others.
            The head is not trained, so its scores are a fresh head's, and the last epoch is kept.
        losses: by task, the loss of this phase by name, in place of the task's: `finetune.losses = {sts = "cosent"}`.
    """

    trains: str = "all"
    epochs: int = 10
    batch_size: int = 64
    step: Literal["task", "round"] = "task"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = 0.0
    clip: float = 0.0
    encoder_learning_rate: float = 0.0
    layer_decay: float = 1.0
    decays: Literal["all", "matrices"] = "all"
    patience: int = 0
    average: float = 0.0
    r_drop: float = 0.0
    ranking: float = 0.0
    ranking_only: bool = False
    losses: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low in {"epochs": 1, "batch_size": 1, **dict.fromkeys(_NOT_NEGATIVE, 0)}.items():
            value = getattr(self, name)
            if not value >= low or value == float("inf"):
                raise ValueError(f"{name} must be a finite number, at least {low}, not {value}")
            if name in _MOST and value > _MOST[name]:
                raise ValueError(f"{name} is at most {_MOST[name]:,}, not {value}")
        if self.trains not in ("head", "all") and not _PARTLY.fullmatch(self.trains):
            raise ValueError(
                f"trains is head, top:k with a number of layers, lora:r with a rank, or all, not {self.trains!r}"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is above 0 and at most 1, not {self.layer_decay}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is a decay from 0 (no average) to below 1, not {self.average}")
        if self.trains == "head" and (self.encoder_learning_rate or self.layer_decay != 1):
            raise ValueError('encoder_learning_rate and layer_decay need an encoder to train; trains is "head"')
        if self.ranking and not self.trains_encoder:
            raise ValueError('ranking needs an encoder to train; trains is "head"')
        if self.ranking_only and not self.ranking:
            raise ValueError("ranking_only needs the weight of it: ranking = 1")
        if self.ranking_only and (self.r_drop or self.losses or self.patience):
            raise ValueError("ranking_only trains no head, so r_drop, losses and patience have no place in it")
        if self.encoder_learning_rate and not self.learning_rate:
            raise ValueError("encoder_learning_rate needs a learning_rate above 0: it follows its schedule")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction of the steps, from 0 to below 1, not {self.warmup}")

    @property
    def trains_encoder(self) -> bool:
        return self.trains != "head"

    @property
    def trains_top(self) -> bool:
        """Whether only the highest layers of the encoder are trained."""
        return self.trains.startswith("top:")

    @property
    def rank(self) -> int:
        """Of low-rank changes; 0 where the encoder's weights themselves are trained, or not at all."""
        return int(self.trains.removeprefix("lora:")) if self.trains.startswith("lora:") else 0

    def top(self, layers: int) -> int:
        """How many of an encoder's `layers` are trained; they are the highest ones.

        Raises:
            UserError: the encoder has fewer.
        """
        if not self.trains_top:
            return layers if self.trains_encoder else 0
        count = int(self.trains.removeprefix("top:"))
        if count > layers:
            raise UserError(f"trains = {self.trains!r}, but the encoder has {layers} layers")
        return count


@dataclass(frozen=True)
class TaskOptions:
    """What a protocol says of one task.

    Attributes:
        train_size, dev_size, test_size: rows; 0 is all, fewer are drawn so that classes keep their shares.
        loss: a loss of the task by name; "" is the head's wish, or the task's first.
        pair_input: as the protocol's, for this task; "" is the protocol's.
    """

    train_size: int = 0
    dev_size: int = 0
    test_size: int = 0
    loss: str = ""
    pair_input: Literal["", "separate", "joint"] = ""

    def __post_init__(self) -> None:
        for name in ("train_size", "dev_size", "test_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 (0 means all rows), not {getattr(self, name)}")


@dataclass(frozen=True)
class Protocol:
    """The recipe of a comparison.

    Attributes:
        summary: one line for lists.
        encoder, data: used where the user names none; "" demands one.
        heads, tasks: compared and trained where the user names none.
        seeds: how many seeds a head, counted from 0, where the user says nothing.
        phases: names of the phases that are run, in order.
        phase_settings: all phases that are defined, by name, in order.
        pooling: `cls`, `mean`, `max` or `pooler`, of the hidden states of `layers`, side by side.
        layers: hidden states that are read; 0 is the embeddings, -1 the last layer.
        pair_input: a pair's sentences encoded apart (`separate`) or as one input (`joint`).
        max_length: word pieces kept of an input.
        precision: that the encoder computes in; `auto` is bf16 where the hardware multiplies it natively.
        sampling: order of task batches. `proportional`: each task's batches, shuffled together; `round_robin`: tasks
            in turn; the others draw each batch's task by its size (`by_size`), its square root (`square_root`), or its
            power of 1 - 0.8 (epoch-1)/(epochs-1) (`annealed`; Stickland & Murray 2019, PALs).
        subsample_seed: draws the subsets; the same for all seeds, so that seeds differ in training alone.
    """

    name: str = "custom"
    summary: str = ""
    encoder: str = ""
    data: str = ""
    heads: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("sst", "quora", "sts")
    seeds: int = 3
    phases: tuple[str, ...] = ()
    pooling: Pooling = "cls"
    layers: tuple[int, ...] = (-1,)
    pair_input: Literal["separate", "joint"] = "separate"
    max_length: int = 512
    sampling: Literal["proportional", "round_robin", "by_size", "square_root", "annealed"] = "proportional"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    subsample_seed: int = 0
    phase_settings: Mapping[str, Phase] = field(default_factory=dict)
    task_options: Mapping[str, TaskOptions] = field(default_factory=dict)
    head_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def options(self, task: str) -> TaskOptions:
        return self.task_options.get(task, TaskOptions())

    def phase(self, name: str) -> Phase:
        return self.phase_settings[name]

    @property
    def trains_encoder(self) -> bool:
        """Whether any phase of a run changes the encoder."""
        return any(self.phase(name).trains_encoder for name in self.phases)

    def joint(self, task: str) -> bool:
        """Whether the task's pairs are encoded as one input."""
        return (self.options(task).pair_input or self.pair_input) == "joint"

    def shapes(self, tasks: Iterable[TaskSpec]) -> tuple[TaskShape, ...]:
        """What heads see of the tasks under this protocol."""
        return tuple(task.shape(joint=self.joint(task.name)) for task in tasks)

    def identity(self) -> dict[str, Any]:
        """What of it can change a cell's numbers: no names, other heads, or phases that are not run.

        Its `phases` are a list of tables, each with a `name`.
        """
        values = plain(self)
        for name in _NOT_NUMERIC:
            del values[name]
        values["phases"] = [{"name": name, **plain(self.phase(name))} for name in self.phases]
        return values

    @staticmethod
    def from_identity(identity: Mapping[str, Any], rows: Mapping[str, Mapping[str, int]] | None = None) -> Protocol:
        """The protocol of a cell's identity; also of older ones, in which phases were tables beside their names.

        Args:
            rows: by task and split, how many there were; all there are if it is left out.
        """
        base, values, tables, options = base_protocol(), dict(identity["protocol"]), {}, {}
        for each in values.pop("phases"):
            if isinstance(each, str):
                tables[each] = {"trains": base.phase(each).trains, **values.pop(each)}
            else:
                tables[each["name"]] = {name: value for name, value in each.items() if name != "name"}
        for task in identity["tasks"]:
            # Older identities leave it to the protocol; a head's own loss is the head's to bring.
            pair_input: Literal["", "separate", "joint"] = ""
            if "joint" in task:
                pair_input = "joint" if task["joint"] else "separate"
            loss = "" if task["loss"].startswith(OWN_LOSS) else task["loss"]
            sizes = {f"{split}_size": count for split, count in (rows or {}).get(task["name"], {}).items()}
            options[task["name"]] = TaskOptions(loss=loss, pair_input=pair_input, **sizes)
        phases = {name: Phase(**each) for name, each in tables.items()}
        values |= {"layers": tuple(values["layers"]), "phases": tuple(phases), "tasks": tuple(options)}
        return Protocol(**values, phase_settings=phases, task_options=options)


def base_protocol() -> Protocol:
    """What every protocol starts from."""
    return override(Protocol(), _shipped(_BASE), (), (), define=True)


@cache
def phase_names() -> frozenset[str]:
    """Names of phases that the shipped protocols define, which tasks and heads must not have."""
    tables = (_shipped(name).get("phases", ()) for name in (_BASE, *presets()))
    return frozenset(name for each in tables for name in each)


def presets() -> list[str]:
    """Names of the protocols that ship with the package."""
    names = (entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))
    return sorted(name for name in names if name != _BASE)


def load_preset(name: str, tasks: Iterable[str], heads: Iterable[str]) -> Protocol:
    """The shipped protocol of that name.

    Raises:
        UserError: there is no such preset.
    """
    if name not in presets():
        raise unknown("preset", name, presets())
    tasks, heads = tuple(tasks), tuple(heads)
    base, values = base_protocol(), _shipped(name)
    # A preset speaks of tasks that may not be installed here (BENCHKIT_PLUGINS); whoever trains them will ask for them.
    here = {*base.phase_settings, *values.get("phases", ()), *tasks, *heads}
    values = {table: value for table, value in values.items() if table in here or not isinstance(value, Mapping)}
    return override(replace(base, name=name), values, tasks, heads, define=True)


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
        start = load_preset(str(base), tasks, heads) if base else base_protocol()
        return override(replace(start, name=path.stem), values, tasks, heads, define=True)
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
        *tables, leaf = name.strip().split(".")
        inner = values
        for table in tables:
            inner = inner.setdefault(table, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {pair}: {table!r} was set to a value before")
        inner[leaf] = value.strip()
    return values


def override(
    protocol: Protocol, values: Mapping[str, Any], tasks: Iterable[str], heads: Iterable[str], *, define: bool = False
) -> Protocol:
    """A copy with nested `values` set: plain fields, and tables named after a phase, a task or a head.

    Args:
        define: names in `phases` that have a table are new phases, where they are not phases already.

    Raises:
        UserError: unknown field or table, or a wrong type; a head's own fields are checked when it is configured.
    """
    tasks, heads = set(tasks), set(heads)
    simple = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    known = [name for name in Protocol.__dataclass_fields__ if name not in _TABLES]
    settings = dict(protocol.phase_settings)
    for name in simple:
        if name not in known:
            raise unknown("field", name, [*known, *(f"{table}.…" for table in (*settings, *sorted(tasks | heads)))])
    result = _apply(protocol, simple, "")
    if define:
        new = {name: Phase() for name in result.phases if name not in settings and name in values}
        if taken := new.keys() & (tasks | heads):
            raise UserError(f"phase {min(taken)!r} has the name of a task or head: choose another")
        if new:  # in the order that the file names
            both = {**settings, **new}
            settings = {name: both[name] for name in dict.fromkeys((*result.phases, *both)) if name in both}
    for table, fields in values.items():
        if not isinstance(fields, Mapping):
            continue
        if table in settings:
            settings[table] = _apply(settings[table], fields, table)
        elif table in tasks:
            options = _apply(result.options(table), fields, table)
            result = replace(result, task_options={**result.task_options, table: options})
        elif table in heads:
            merged = {**result.head_options.get(table, {}), **fields}
            result = replace(result, head_options={**result.head_options, table: merged})
        else:
            raise unknown("table", table, [*settings, *tasks, *heads])
    return _checked(replace(result, phase_settings=settings))


def _apply(settings: _Settings, values: Mapping[str, Any], table: str) -> _Settings:
    try:
        return apply(settings, values, table)
    except ValueError as error:  # refused by the dataclass itself, which does not know its table's name
        raise UserError(f"{table}.{error}" if table else str(error)) from error


def _checked(protocol: Protocol) -> Protocol:
    known = tuple(protocol.phase_settings)
    for phase in protocol.phases:
        if phase not in known:
            raise unknown("phase", phase, known)
    if not protocol.phases:
        raise UserError(f"phases is empty: name at least one of {', '.join(known)}")
    if list(protocol.phases) != [name for name in known if name in protocol.phases]:
        raise UserError(f"phases run in the order {', '.join(known)}, each once, not {', '.join(protocol.phases)}")
    if not 1 <= protocol.seeds <= MOST_SEEDS:
        raise UserError(f"seeds is from 1 to {MOST_SEEDS:,}, not {protocol.seeds}")
    if not protocol.layers:
        raise UserError("layers is empty: -1 is the last layer")
    if protocol.max_length < 4:
        raise UserError(f"max_length must be at least 4 ([CLS], a word piece, two [SEP]), not {protocol.max_length}")
    return protocol


def _shipped(name: str) -> dict[str, Any]:
    return tomllib.loads((_folder() / f"{name}.toml").read_text("utf-8"))


def _folder() -> Any:
    return files("benchkit.core") / "presets"
