"""Runs that a run is judged by: each task alone, and heads that cannot have learnt anything from the texts.

Each is a run of its own, in a folder inside the run's, with cells that are keyed, stored and resumed like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchkit.data.shuffle import SHUFFLED
from benchkit.errors import UserError
from benchkit.runner.encoders import RANDOM
from benchkit.runner.request import Plan

ALONE, CONTROLS = "alone", "controls"
"""Folders of a run."""
SHUFFLED_LABELS, RANDOM_ENCODER = "shuffled labels", "random encoder"


@dataclass(frozen=True)
class Beside:
    """A run beside another: what sets it apart, and its plan."""

    name: str
    plan: Plan


def alone(plan: Plan) -> Iterator[Beside]:
    """The same heads and seeds on one task at a time, all else equal.

    Raises:
        UserError: there is only one task.
    """
    tasks = plan.protocol.tasks
    if len(tasks) < 2:
        raise UserError(f"--single-task compares training on all tasks with each alone; {', '.join(tasks)} is alone")
    for task in tasks:
        protocol = replace(plan.protocol, tasks=(task,))
        yield Beside(task, replace(plan, protocol=protocol, out=plan.out / ALONE / task, interference=False))


def trained_controls(plan: Plan) -> Iterator[Beside]:
    """The same heads and seeds with train's labels shuffled, and on an encoder with untrained weights."""
    folder, calm = plan.out / CONTROLS, replace(plan, interference=False)
    changes = {
        SHUFFLED_LABELS: replace(calm, data=SHUFFLED + plan.data),
        RANDOM_ENCODER: replace(calm, encoder=RANDOM + plan.encoder),
    }
    yield from (Beside(name, replace(each, out=folder / folder_of(name))) for name, each in changes.items())


def folder_of(control: str) -> str:
    return control.replace(" ", "-")
