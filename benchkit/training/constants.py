"""What a constant prediction reaches: the loss that a head must beat. Importing it does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from benchkit.core.task import Loss, TaskSpec

_BATCH = 1024


def constant_loss(task: TaskSpec, loss: Loss, train_labels: np.ndarray) -> float:
    """Training loss of constant outputs: the log class frequencies, or the mean score.

    A class without an example counts as half a one, so that its logit is finite.

    Args:
        train_labels: (n,), class indices or scores.

    Raises:
        ValueError: there is no label.
    """
    return mean_loss(task, loss, constant_outputs(task, train_labels), train_labels)


def constant_outputs(task: TaskSpec, labels: np.ndarray) -> np.ndarray:
    """The constant outputs (out,), fp32, for labels (n,): log class frequencies, or the mean score.

    These are the best constants for cross-entropy and for squared error.
    """
    if not len(labels) or np.isnan(labels).any():
        raise ValueError(f"task {task.name!r} has no labels to learn a constant from")
    if not task.classes:
        return np.array([labels.mean()], np.float32)
    counts = np.bincount(labels.astype(np.int64), minlength=len(task.classes))
    found: np.ndarray = np.log(np.maximum(counts, 0.5) / len(labels)).astype(np.float32)
    return found


def mean_loss(task: TaskSpec, loss: Loss, outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean loss of constant outputs (out,) over labels (n,)."""
    import torch

    targets = torch.from_numpy(labels.astype(np.int64 if task.classes else np.float32))
    constant = torch.from_numpy(outputs)
    total = 0.0
    for start in range(0, len(targets), _BATCH):
        part = targets[start : start + _BATCH]
        total += float(loss(constant.expand(len(part), -1), part, task.shape())) * len(part)
    return total / len(labels)
