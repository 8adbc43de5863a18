"""A search space as plain data: what is searched, between which bounds, and what the default is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

from benchkit.errors import UserError

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
