"""What is searched: a head's config and its rates, and how samplers propose them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchkit.core.errors import UserError, unknown
from benchkit.core.head import HeadSpec, Range
from benchkit.core.rng import derive
from benchkit.experiment.cell import Cell
from benchkit.experiment.workspace import Workspace, build_head, feature_settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


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

    def digest(self) -> str:
        return digest(self.to_data())

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


_STARTUP = 5  # trials that are never pruned, so that there is a median to be below
SAMPLERS = ("tpe", "random", "cmaes", "qmc", "grid")
PRUNERS = ("none", "median", "hyperband")


def check_sampler(name: str, *, objectives: int) -> None:
    """Raise UserError if there is no such sampler, or it cannot do what is asked."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    if name == "cmaes":
        if objectives > 1:
            raise UserError("--sampler cmaes has one objective; for --objective pareto use tpe, random, qmc or grid")
        if find_spec("cmaes") is None:
            raise UserError("--sampler cmaes takes the package cmaes: pip install 'benchkit[tune]'")


def check_pruner(name: str, *, objectives: int) -> None:
    """Raise UserError if there is no such pruner, or it cannot do what is asked."""
    if name not in PRUNERS:
        raise unknown("pruner", name, PRUNERS)
    if name != "none" and objectives > 1:
        raise UserError(f"--pruner {name} has one objective; with --objective pareto use --pruner none")


def make_sampler(name: str, seed: int, trial: int) -> BaseSampler:
    """A sampler for one trial.

    What it draws depends on `seed`, on how many trials were begun before, and on what these found, not on which
    process asks: workers never draw the same, and a search that was resumed goes on as if it had not been stopped.
    A grid has no sampler of its own: its points are queued.
    """
    from optuna import samplers

    own = derive(seed, "sampler", trial) % 2**32
    makers: Mapping[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=own, constant_liar=True),
        "random": lambda: samplers.RandomSampler(seed=own),
        "grid": lambda: samplers.RandomSampler(seed=own),
        "cmaes": lambda: samplers.CmaEsSampler(seed=own, warn_independent_sampling=False),
        # One sequence for the whole study; its place in it is kept by the storage.
        "qmc": lambda: samplers.QMCSampler(
            seed=seed,
            scramble=True,
            # Before a trial has ended, Optuna 4 knows no space to go through and draws at random.
            independent_sampler=samplers.RandomSampler(seed=own),
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental": their interface may change, their results are checked
        return makers[name]()


def make_pruner(name: str, epochs: int) -> BasePruner:
    """A pruner for trials of so many epochs, over all phases."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=max(1, epochs // 4))
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return pruners.NopPruner()


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
    protocol, device = cell.protocol, torch.device(cell.execution.device)
    spec, encoder = workspace.plugins.head(cell.head), workspace.encoder(cell.encoder)
    shapes = [task.shape(joint=protocol.pair_input == "joint") for task in workspace.tasks(protocol)]
    settings = feature_settings(protocol, spec, encoder, cell.execution.precision, device)

    def count(config: Mapping[str, Any]) -> int:
        with torch.device("meta"):
            head = build_head(spec, spec.configure(config), encoder, settings, shapes)
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
