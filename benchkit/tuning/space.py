"""What is searched and how it is drawn: a head's config and rates, configs of a given size, samplers and pruners."""

from __future__ import annotations

import dataclasses
import math
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from benchkit.core.errors import UserError, unknown
from benchkit.core.head import Choice, HeadSpec, Range, count
from benchkit.core.protocol import Phase, Protocol
from benchkit.core.rng import derive
from benchkit.core.task import TaskSpec
from benchkit.experiment.cell import Cell
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.workspace import Workspace


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
        if self.kind == "choice":
            return CategoricalDistribution(self.choices)
        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def points(self) -> tuple[Any, ...]:
        """The values that a grid tries: all choices; of a range both ends and the middle."""
        if self.kind == "choice":
            return self.choices
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        middle = low + (high - low) / 2
        values = (self.low, math.exp(middle) if self.log else middle, self.high)
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

    def default(self) -> dict[str, Any]:
        return {each.name: each.default for each in self.dimensions}

    def grid(self) -> Iterator[dict[str, Any]]:
        """All combinations of all dimensions' points, the last dimension fastest."""
        for values in product(*(each.points() for each in self.dimensions)):
            yield dict(zip(self.names(), values, strict=True))

    def shuffled_grid(self, seed: int) -> list[dict[str, Any]]:
        """The default, then the grid's other points in an order drawn by a seed."""
        points = [point for point in self.grid() if point != self.default()]
        order = np.random.default_rng(seed).permutation(len(points))
        return [self.default(), *(points[i] for i in order)]

    def grid_size(self) -> int:
        return math.prod(len(each.points()) for each in self.dimensions)


def _empty(head: str, reason: str) -> UserError:
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
    head = list(_head_fields(spec, config))
    groups = {"head": head, "dropout": [each for each in head if "dropout" in each.name.partition(".")[2]]}
    groups |= _protocol_fields(protocol, tasks)
    fields = {each.name: each for dimensions in groups.values() for each in dimensions}
    chosen: dict[str, Dimension] = {}
    for name in search:
        if name not in groups and name not in fields:
            raise unknown("search group or field", name, [*groups, *fields])
        chosen |= {each.name: each for each in groups.get(name) or ([fields[name]] if name in fields else [])}
    left = [each for name, each in chosen.items() if name not in pins]
    if not left:
        reason = "every field is pinned by --set" if chosen else "it has no such field"
        raise _empty(spec.name, f"{', '.join(search)}: {reason}" if search else "--search is empty")
    return Space(tuple(left))


def _head_fields(spec: HeadSpec, config: Any) -> Iterator[Dimension]:
    hints = typing.get_type_hints(spec.config)
    for field in dataclasses.fields(spec.config):
        search, name, value = field.metadata.get("search"), f"{spec.name}.{field.name}", getattr(config, field.name)
        if isinstance(search, Range):
            kind: Literal["int", "float"] = "int" if hints[field.name] is int else "float"
            yield _range(name, kind, value, search.low, search.high, log=search.log)
        elif isinstance(search, Choice):
            yield _choice(name, _settable(value), map(_settable, search.values))


def _protocol_fields(protocol: Protocol, tasks: Sequence[TaskSpec]) -> dict[str, list[Dimension]]:
    """By group. Losses are those of tasks that have several; "" leaves it to the head, or else to the task."""
    groups: dict[str, list[Dimension]] = {name: [] for name in ("lr", "weight_decay", "batch", "schedule")}
    schedules, samplings = typing.get_type_hints(Phase)["schedule"], typing.get_type_hints(Protocol)["sampling"]
    for name in protocol.phases:
        phase = protocol.phase(name)
        rates, sizes = (_ENCODER_RATES, _ENCODER_BATCHES) if phase.trains_encoder else (_HEAD_RATES, _HEAD_BATCHES)
        groups["lr"].append(_range(f"{name}.learning_rate", "float", phase.learning_rate, *rates, log=True))
        groups["weight_decay"].append(_range(f"{name}.weight_decay", "float", phase.weight_decay, *_DECAY, log=True))
        groups["batch"].append(_choice(f"{name}.batch_size", phase.batch_size, sorted({*sizes, phase.batch_size})))
        groups["schedule"].append(_choice(f"{name}.schedule", phase.schedule, typing.get_args(schedules)))
    losses = [(f"{task.name}.loss", protocol.options(task.name).loss, task.losses) for task in tasks]
    groups["loss"] = [_choice(name, default, [default, *known]) for name, default, known in losses if len(known) > 1]
    groups["sampling"] = [_choice("sampling", protocol.sampling, typing.get_args(samplings))]
    return groups


def _range(name: str, kind: Literal["int", "float"], value: Any, low: float, high: float, *, log: bool) -> Dimension:
    """A range that holds the default, wherever the protocol has put it; 0 has no place on a log scale."""
    if log and value <= 0:
        low, log = 0.0, False
    return Dimension(name, kind, value, min(low, value), max(high, value), log)


def _choice(name: str, value: Any, choices: Iterable[Any]) -> Dimension:
    return Dimension(name, "choice", value, choices=tuple(dict.fromkeys(choices)))


def _settable(value: Any) -> Any:
    """A choice as Optuna stores it, and as `--set` reads it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return ",".join(map(str, value))


TOLERANCE = 0.05


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


def without_width(
    space: Space, cell: Cell, size: int, pins: Sequence[str], workspace: Workspace
) -> tuple[Space, tuple[str, ...]]:
    """The space without the field that is solved so that the head has `size` parameters; and `fit_size`'s widths: the
    whole-number fields that change its size, the strongest first, without those that are pinned.

    Raises:
        UserError: the default config cannot have that size, or nothing is left to search.
    """
    assembly, spans = Assembly.of_cell(cell, workspace), dict[str, int]()
    for name, ends in _ranges(assembly.spec).items():
        if f"{cell.head}.{name}" not in pins:
            low, high = (_count(assembly, {**cell.config, name: end}) for end in ends)
            spans[name] = abs(high - low)
    widths = tuple(sorted((name for name, span in spans.items() if span), key=lambda name: -spans[name]))
    fit_size(cell, cell.config, size, widths, workspace)
    left = tuple(each for each in space.dimensions if each.name not in [f"{cell.head}.{name}" for name in widths[:1]])
    if not left:
        raise _empty(cell.head, f"{widths[0]} alone was searched, and --match-params solves it")
    return Space(left), widths


def fit_size(
    cell: Cell, config: Mapping[str, Any], size: int, widths: Sequence[str], workspace: Workspace
) -> dict[str, Any]:
    """The config with its widths changed so that the head has `size` parameters, within 5 %.

    The first of `widths` is solved by bisection. Where its range is not enough it stays at its end, and the next one is
    solved, so that other drawn values are changed no more than need be.

    Raises:
        UserError: no widths give that size.
    """
    assembly, fitted = Assembly.of_cell(cell, workspace), dict(config)
    for name in widths:
        if abs(_count(assembly, fitted) - size) <= TOLERANCE * size:
            break
        fitted[name] = _solve(assembly, fitted, name, size)
    found = _count(assembly, fitted)
    if abs(found - size) > TOLERANCE * size:
        raise UserError(
            f"head {cell.head!r} cannot have {size:,} parameters ±{TOLERANCE:.0%} with {dict(config)}: "
            f"the nearest has {found:,}"
        )
    return fitted


def _solve(assembly: Assembly, config: Mapping[str, Any], name: str, size: int) -> int:
    """The value of a width with which the parameters are nearest to `size`; they grow with the value."""

    def parameters(value: int) -> int:
        return _count(assembly, {**config, name: value})

    low, high = _ranges(assembly.spec)[name]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if parameters(middle) < size else (low, middle)
    return min((low, high), key=lambda value: abs(parameters(value) - size))


def _count(assembly: Assembly, config: Mapping[str, Any]) -> int:
    """A head's parameters with a config; on the meta device nothing is allocated."""
    with torch.device("meta"):
        return count(dataclasses.replace(assembly, config=assembly.spec.configure(config)).build())


def _ranges(spec: HeadSpec) -> dict[str, tuple[int, int]]:
    """The ranges of the whole-number fields, by name."""
    hints = typing.get_type_hints(spec.config)
    searched = {field.name: field.metadata.get("search") for field in dataclasses.fields(spec.config)}
    return {
        name: (int(each.low), int(each.high))
        for name, each in searched.items()
        if isinstance(each, Range) and hints[name] is int
    }


COSTS = {"pareto": "parameters", "pareto-latency": "latency (ms)"}
"""Objectives that are two, and what they weigh against the mean on dev: the number of the head's parameters, or its
milliseconds for one example.
"""

_STARTUP = 5  # trials that are never pruned, so that there is a median to be below
SAMPLERS = ("tpe", "random", "cmaes", "qmc", "grid")
PRUNERS = ("none", "median", "hyperband")


def check_methods(sampler: str, pruner: str, objective: str) -> None:
    """Raise UserError if there is no such sampler or pruner, or it cannot do what is asked."""
    for kind, name, known in (("sampler", sampler, SAMPLERS), ("pruner", pruner, PRUNERS)):
        if name not in known:
            raise unknown(kind, name, known)
    if sampler == "cmaes" and objective in COSTS:
        raise UserError("--sampler cmaes has one objective; for --objective pareto use tpe, random, qmc or grid")
    if sampler == "cmaes" and find_spec("cmaes") is None:
        raise UserError("--sampler cmaes takes the package cmaes: pip install 'benchkit[tune]'")
    if pruner != "none" and objective in COSTS:
        raise UserError(f"--pruner {pruner} has one objective; with --objective pareto use --pruner none")


def make_sampler(name: str, seed: int, trial: int) -> samplers.BaseSampler:
    """A sampler for one trial.

    What it draws depends on `seed`, on how many trials were begun before, and on what these found, not on which
    process asks: workers never draw the same, and a search that was resumed goes on as if it had not been stopped.
    A grid has no sampler of its own: its points are queued.
    """
    own = derive(seed, "sampler", trial) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental": their interface may change, their results are checked
        if name == "tpe":
            return samplers.TPESampler(seed=own, constant_liar=True)
        if name == "cmaes":
            return samplers.CmaEsSampler(seed=own, warn_independent_sampling=False)
        if name == "qmc":  # one sequence for the whole study; its place in it is kept by the storage
            return samplers.QMCSampler(
                seed=seed,
                scramble=True,
                # Before a trial has ended, Optuna 4 knows no space to go through and draws at random.
                independent_sampler=samplers.RandomSampler(seed=own),
                warn_asynchronous_seeding=False,
                warn_independent_sampling=False,
            )
        return samplers.RandomSampler(seed=own)


def make_pruner(name: str, epochs: int) -> pruners.BasePruner:
    """A pruner for trials of so many epochs, over all phases."""
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=max(1, epochs // 4))
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return pruners.NopPruner()
