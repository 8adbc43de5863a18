"""What a worker must know, as plain data: it can be carried to another process."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from benchkit.runner.cell import Cell
from benchkit.tune.space import Space

COSTS = {"pareto": "parameters", "pareto-latency": "latency (ms)"}
"""Objectives that are two, and what they weigh against the mean on dev."""


@dataclass(frozen=True)
class Objective:
    """What is maximised on dev: the `mean` over tasks, one task's metric, or the mean against a cost that is minimised:
    `pareto` the number of the head's parameters, `pareto-latency` its milliseconds for one example.
    """

    name: str = "mean"

    @property
    def cost(self) -> str:
        """What is minimised beside it, as tables name it, or ""."""
        return COSTS.get(self.name, "")

    @property
    def quality(self) -> str:
        """What is maximised, as tables name it."""
        return f"dev {'mean' if self.cost else self.name}"

    @property
    def directions(self) -> list[str]:
        return ["maximize", "minimize"] if self.cost else ["maximize"]


@dataclass(frozen=True)
class Job:
    """One study's search.

    Attributes:
        cell: the default config under the base protocol, with the seed that all trials train with.
        trials: finished trials wanted in all, whoever runs them.
        size: parameters that the head must have, within 5 %; 0 for any.
        widths: the head's fields that may be changed for that, the strongest first; the space is without the first.
    """

    study: str
    storage: str
    cell: Cell
    space: Space
    objective: Objective
    trials: int
    sampler: str
    sampler_seed: int
    pruner: str
    size: int
    widths: tuple[str, ...]
    cache: str

    def epochs(self) -> int:
        """Of a trial, over all phases."""
        protocol = self.cell.protocol
        return sum(protocol.phase(name).epochs for name in protocol.phases)

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed: dict[str, Any] = {
            "cell": json.loads(self.cell.to_json()),
            "space": self.space.to_data(),
            "objective": self.objective.name,
        }
        return json.dumps({**values, **changed})

    @staticmethod
    def from_json(text: str) -> Job:
        values = json.loads(text)
        return Job(
            **{
                **values,
                "cell": Cell.from_json(json.dumps(values["cell"])),
                "space": Space.from_data(values["space"]),
                "objective": Objective(values["objective"]),
                "widths": tuple(values["widths"]),
            }
        )
