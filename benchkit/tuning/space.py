"""What is searched: a head's config and its rates; and configs of a given size."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchkit.core.errors import UserError, unknown
from benchkit.core.head import Choice, HeadSpec, Range
from benchkit.core.protocol import Phase, Protocol
from benchkit.core.task import TaskSpec
from benchkit.experiment.cell import Cell
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import Workspace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


_GRID_POINTS = 3  # of a range, where a grid is searched


@dataclass(frozen=True)
class Dimension:
    """One field.

    Attributes:
        name: dotted, as `--set` takes it.
        low, high: both included; of no meaning for a choice.
        choices: numbers, texts or truth values; what else a config takes, a tuple say, as the text that sets it.
    """

    name: str
    kind: Literal["int", "float", "choice"]
    default: Any
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def points(self) -> tuple[Any, ...]:
        """The values that a grid tries: all choices; of a range both ends and the middle."""
        if self.kind == "choice":
            return self.choices
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        steps = [ends[0] + (ends[1] - ends[0]) * i / (_GRID_POINTS - 1) for i in range(_GRID_POINTS)]
        values = [self.low, *(math.exp(each) if self.log else each for each in steps[1:-1]), self.high]
        return tuple(dict.fromkeys(round(each) if self.kind == "int" else each for each in values))

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.choices))}"
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """Fields in the order they are shown."""

    dimensions: tuple[Dimension, ...]

    def names(self) -> list[str]:
        return [each.name for each in self.dimensions]

    def without(self, names: Sequence[str]) -> Space:
        return Space(tuple(each for each in self.dimensions if each.name not in names))

    def distributions(self) -> dict[str, BaseDistribution]:
        return {each.name: each.distribution() for each in self.dimensions}

    def default(self) -> dict[str, Any]:
        return {each.name: each.default for each in self.dimensions}

    def grid(self) -> Iterator[dict[str, Any]]:
        """All combinations of all dimensions' points, the last dimension fastest."""
        for values in product(*(each.points() for each in self.dimensions)):
            yield dict(zip(self.names(), values, strict=True))

    def grid_size(self) -> int:
        return math.prod(len(each.points()) for each in self.dimensions)

    def to_data(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(each) for each in self.dimensions]

    @staticmethod
    def from_data(data: Sequence[Mapping[str, Any]]) -> Space:
        return Space(tuple(Dimension(**{**each, "choices": tuple(each["choices"])}) for each in data))


def digest(data: Any) -> str:
    """16 hex digits of JSON-ready data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def nested(params: Mapping[str, Any]) -> dict[str, dict[str, Any] | Any]:
    """`{"cnn.pool": 2, "sampling": "annealed"}` as `protocol.override` takes it."""
    values: dict[str, Any] = {}
    for name, value in params.items():
        table, dot, leaf = name.partition(".")
        if dot:
            values.setdefault(table, {})[leaf] = value
        else:
            values[table] = value
    return values


def empty(head: str, reason: str) -> UserError:
    return UserError(f"nothing to search for head {head!r}: {reason}; see benchkit tune --head {head} --show-space")


# Usual with a frozen encoder, and for fine-tuning one (around Devlin et al. 2018, appendix A.3).
_HEAD_RATES, _ENCODER_RATES = (1e-4, 3e-2), (1e-6, 2e-4)
_HEAD_BATCHES, _ENCODER_BATCHES = (16, 32, 64, 128), (8, 16, 32)
_DECAY = (1e-4, 0.3)

DEFAULT_GROUPS = ("head", "lr")


def build_space(
    spec: HeadSpec,
    config: Any,
    protocol: Protocol,
    tasks: Sequence[TaskSpec],
    search: Sequence[str],
    pins: Sequence[str],
) -> Space:
    """The fields that `search` names, groups or single fields, without those that are pinned.

    Args:
        config: the head's config with everything that the protocol says; its values are the defaults.
        pins: dotted names of fields that the user has set.

    Raises:
        UserError: a name is unknown, or nothing is left to search.
    """
    groups = _groups(spec, config, protocol, tasks)
    fields = {each.name: each for dimensions in groups.values() for each in dimensions}
    chosen: dict[str, Dimension] = {}
    for name in search:
        if name not in groups and name not in fields:
            raise unknown("search group or field", name, [*groups, *fields])
        chosen |= {each.name: each for each in groups.get(name) or ([fields[name]] if name in fields else [])}
    left = [each for name, each in chosen.items() if name not in pins]
    if not left:
        what = ", ".join(search) or "--search is empty"
        reason = f"{what}: every field is pinned by --set" if chosen else f"{what}: it has no such field"
        raise empty(spec.name, reason if search else what)
    return Space(tuple(left))


def _groups(spec: HeadSpec, config: Any, protocol: Protocol, tasks: Sequence[TaskSpec]) -> dict[str, list[Dimension]]:
    head = list(_head(spec, config))
    found = {"head": head, "dropout": [each for each in head if "dropout" in each.name.partition(".")[2]]}
    return {**found, **{name: list(make(protocol, tasks)) for name, make in _PROTOCOL.items()}}


def _head(spec: HeadSpec, config: Any) -> Iterator[Dimension]:
    hints = typing.get_type_hints(spec.config)
    for field in dataclasses.fields(spec.config):
        search, name, value = field.metadata.get("search"), f"{spec.name}.{field.name}", getattr(config, field.name)
        if isinstance(search, Range):
            kind: typing.Literal["int", "float"] = "int" if hints[field.name] is int else "float"
            yield _ranged(name, kind, value, search.low, search.high, log=search.log)
        elif isinstance(search, Choice):
            yield Dimension(name, "choice", _settable(value), choices=tuple(map(_settable, search.values)))


def _ranged(
    name: str, kind: typing.Literal["int", "float"], value: Any, low: float, high: float, log: bool
) -> Dimension:
    """A range that holds the default, wherever the protocol has put it; 0 has no place on a log scale."""
    if log and value <= 0:
        low, log = 0.0, False
    return Dimension(name, kind, value, min(low, value), max(high, value), log)


def _settable(value: Any) -> Any:
    """A choice as Optuna stores it, and as `--set` reads it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return ",".join(map(str, value))


def _phases(protocol: Protocol) -> Iterator[tuple[str, Phase]]:
    for name in protocol.phases:
        yield name, protocol.phase(name)


def _rates(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        rates = _ENCODER_RATES if phase.trains_encoder else _HEAD_RATES
        yield _ranged(f"{name}.learning_rate", "float", phase.learning_rate, *rates, log=True)


def _decays(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        yield _ranged(f"{name}.weight_decay", "float", phase.weight_decay, *_DECAY, log=True)


def _batches(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        usual = _ENCODER_BATCHES if phase.trains_encoder else _HEAD_BATCHES
        sizes = sorted({*usual, phase.batch_size})
        yield Dimension(f"{name}.batch_size", "choice", phase.batch_size, choices=tuple(sizes))


def _schedules(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    choices = typing.get_args(typing.get_type_hints(Phase)["schedule"])
    for name, phase in _phases(protocol):
        yield Dimension(f"{name}.schedule", "choice", phase.schedule, choices=choices)


def _losses(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    """Of tasks that have several; "" leaves it to the head, or else to the task."""
    for task in tasks:
        if len(task.losses) > 1:
            default = protocol.options(task.name).loss
            yield Dimension(
                f"{task.name}.loss", "choice", default, choices=tuple(dict.fromkeys([default, *task.losses]))
            )


def _sampling(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    choices = typing.get_args(typing.get_type_hints(Protocol)["sampling"])
    yield Dimension("sampling", "choice", protocol.sampling, choices=choices)


_PROTOCOL: Mapping[str, Callable[[Protocol, Sequence[TaskSpec]], Iterator[Dimension]]] = {
    "lr": _rates,
    "weight_decay": _decays,
    "batch": _batches,
    "schedule": _schedules,
    "loss": _losses,
    "sampling": _sampling,
}


TOLERANCE = 0.05

Count = Callable[[Mapping[str, Any]], int]


def parse_size(text: str) -> int:
    """`250k`, `1.5M` or `250000` as a number of parameters.

    Raises:
        UserError: it is none.
    """
    units = {"k": 1e3, "m": 1e6}
    number, unit = (text[:-1], units[text[-1:].lower()]) if text[-1:].lower() in units else (text, 1)
    try:
        size = round(float(number) * unit)
    except (ValueError, OverflowError):
        size = 0
    if size < 1:
        raise UserError(f"--match-params takes a number of parameters, such as 250k or 1.5M, not {text!r}")
    return size


def width_fields(cell: Cell, workspace: Workspace, pins: Sequence[str] = ()) -> list[str]:
    """The whole-number fields of a head that change its size, the strongest first; without those that are pinned."""
    spec, count = workspace.plugins.head(cell.head), counter(cell, workspace)
    spans = {}
    for name, (low, high) in _ranges(spec).items():
        if f"{cell.head}.{name}" not in pins:
            spans[name] = abs(count({**cell.config, name: high}) - count({**cell.config, name: low}))
    return sorted((name for name, span in spans.items() if span), key=lambda name: -spans[name])


def fit_size(
    cell: Cell, config: Mapping[str, Any], size: int, widths: Sequence[str], workspace: Workspace
) -> dict[str, Any]:
    """The config with its widths changed so that the head has `size` parameters, within 5 %.

    The first of `widths` is solved by bisection. Where its range is not enough it stays at its end, and the next one is
    solved, so that other drawn values are changed no more than need be.

    Raises:
        UserError: no widths give that size.
    """
    spec, count = workspace.plugins.head(cell.head), counter(cell, workspace)
    fitted, ranges = dict(config), _ranges(spec)
    for name in widths:
        if _fits(count(fitted), size):
            break
        fitted[name] = _solve(partial(_count_with, count, fitted, name), *ranges[name], size)
    found = count(fitted)
    if not _fits(found, size):
        raise UserError(
            f"head {cell.head!r} cannot have {size:,} parameters ±{TOLERANCE:.0%} with {dict(config)}: "
            f"the nearest has {found:,}"
        )
    return fitted


def counter(cell: Cell, workspace: Workspace) -> Count:
    """Counts a head's parameters by config; on the meta device nothing is allocated."""
    assembly = Assembly.of_cell(cell, workspace)

    def count(config: Mapping[str, Any]) -> int:
        with torch.device("meta"):
            head = dataclasses.replace(assembly, config=assembly.spec.configure(config)).build()
        return sum(parameter.numel() for parameter in head.parameters())

    return count


def _count_with(count: Count, config: Mapping[str, Any], name: str, value: int) -> int:
    return count({**config, name: value})


def _fits(found: int, size: int) -> bool:
    return abs(found - size) <= TOLERANCE * size


def _ranges(spec: HeadSpec) -> dict[str, tuple[int, int]]:
    hints = typing.get_type_hints(spec.config)
    searched = {field.name: field.metadata.get("search") for field in fields(spec.config)}
    return {
        name: (int(each.low), int(each.high))
        for name, each in searched.items()
        if isinstance(each, Range) and hints[name] is int
    }


def _solve(count: Callable[[int], int], low: int, high: int, size: int) -> int:
    """The value from low to high whose count is nearest to `size`; counts grow with the value."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < size else (low, middle)
    return min((low, high), key=lambda value: abs(count(value) - size))
