"""Baselines for a run: constant predictions, each task alone, and heads that cannot learn from the texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchkit.core.errors import UserError, one_line, unknown
from benchkit.data.splits import SHUFFLED
from benchkit.training.constants import constant_outputs, mean_loss

if TYPE_CHECKING:
    from benchkit.core.task import TaskSpec
    from benchkit.data import Split
    from benchkit.experiment.config import Plan


@dataclass(frozen=True)
class Control:
    """One constant prediction, learnt on train, on one split of one task.

    Attributes:
        name: `majority class`, or `mean score` for a regression.
        value: the task's metric.
        loss: the loss of the constant outputs that `constant_loss` describes.
    """

    name: str
    task: str
    split: str
    metric: str
    value: float
    loss: float


def controls(task: TaskSpec, splits: Mapping[str, Split], loss: str = "", *, with_loss: bool = True) -> list[Control]:
    """The control of a task on each labelled split. If several classes are equally frequent, it predicts the first.

    Args:
        splits: by name; `train` must be there and labelled.
        loss: name of the task's loss; "" is the default one.
        with_loss: whether to compute the loss, which needs torch; otherwise it is NaN.

    Raises:
        UserError: the task has no loss of that name, or its metric gives no number for constant predictions.
        ValueError: train has no label.
    """
    if loss and loss not in task.losses:
        raise unknown(f"loss of task {task.name!r},", loss, task.losses)
    function = task.losses[loss or next(iter(task.losses))]
    outputs = constant_outputs(task, splits["train"].labels)
    prediction = int(outputs.argmax()) if task.classes else float(outputs[0])
    name = "majority class" if task.classes else "mean score"
    found = []
    for split, data in splits.items():
        if len(data) and data.labelled:
            value = _metric(task, data.labels, np.full(len(data), prediction))
            cost = mean_loss(task, function, outputs, data.labels) if with_loss else np.nan
            found.append(Control(name, task.name, split, task.metric.name, value, cost))
    return found


def _metric(task: TaskSpec, labels: np.ndarray, predictions: np.ndarray) -> float:
    """The metric of constant predictions; here a user's metric may divide by zero."""
    where = f"task {task.name!r}: metric {task.metric.name!r} of constant predictions"
    try:
        value = float(task.metric.score(labels, predictions))
    except Exception as error:
        raise UserError(f"{where} raised {one_line(error)}") from error
    if not np.isfinite(value):
        raise UserError(f"{where} is {value}: return a number there, such as 0.0")
    return value


SINGLE_TASK, CONTROLS = "alone", "controls"
"""Folders of a run."""
SHUFFLED_LABELS, RANDOM_ENCODER = "shuffled labels", "random encoder"


def single_task_plans(plan: Plan) -> dict[str, Plan]:
    """One plan per task: the same heads and seeds on that task alone, everything else unchanged.

    Raises:
        UserError: there is only one task.
    """
    tasks = plan.protocol.tasks
    if len(tasks) < 2:
        raise UserError(f"--single-task compares training on all tasks with each alone; {', '.join(tasks)} is alone")
    return {
        task: replace(
            plan, protocol=replace(plan.protocol, tasks=(task,)), out=plan.out / SINGLE_TASK / task, interference=False
        )
        for task in tasks
    }


def control_plans(plan: Plan) -> dict[str, Plan]:
    """Two plans with the same heads and seeds: shuffled labels in train, and an encoder with untrained weights."""
    from benchkit.experiment.workspace import RANDOM

    base = replace(plan, interference=False)
    plans = {
        SHUFFLED_LABELS: replace(base, data=SHUFFLED + plan.data),
        RANDOM_ENCODER: replace(base, encoder=RANDOM + plan.encoder),
    }
    return {name: replace(each, out=plan.out / CONTROLS / folder_of(name)) for name, each in plans.items()}


def folder_of(control: str) -> str:
    return control.replace(" ", "-")
