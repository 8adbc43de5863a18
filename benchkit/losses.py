"""Losses: `loss(outputs (batch, out), labels (batch,), shape) -> ()`, the mean over the batch, in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from benchkit.task import TaskShape

EPSILON = 1e-6
"""How close to 0 and 1 a score may come inside `binary_cross_entropy`; well above fp32's rounding at 1."""


def cross_entropy(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    """Softmax cross-entropy of logits (batch, classes) against class indices (batch,)."""
    from torch.nn import functional

    return functional.cross_entropy(outputs.float(), labels.long())


def binary_cross_entropy(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    """Cross-entropy of scores (batch, 1) against soft targets, both mapped from [low, high] to [0, 1].

    Its least value is the entropy of the targets, not 0. A score at or beyond the ends has no gradient.
    """
    score = _unit(outputs.float().squeeze(-1), shape).clamp(EPSILON, 1 - EPSILON)
    target = _unit(labels.float(), shape)
    # Written out: torch's own refuses to run under CUDA autocast, fp32 inputs or not.
    return -(target * score.log() + (1 - target) * (1 - score).log()).mean()


def mse(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    """Mean squared error of scores (batch, 1), on the scale where the label range is [0, 1]."""
    return (_unit(outputs.float().squeeze(-1), shape) - _unit(labels.float(), shape)).square().mean()


def _unit(values: Tensor, shape: TaskShape) -> Tensor:
    return (values - shape.low) / (shape.high - shape.low)
