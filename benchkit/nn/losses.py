"""Losses: `loss(outputs (batch, out), labels (batch,), shape) -> ()`, the mean over the batch, in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from benchkit.core.task import TaskShape


EPSILON = 1e-6
"""How close to 0 and 1 a score may come inside `binary_cross_entropy`; well above fp32's rounding at 1."""

FLOOR = 1e-8
"""Added to variances on the unit scale inside `pearson`; about the variance of a collapsed head's scores."""
STEEPNESS = 20.0
"""How hard `cosent` and `multiple_negatives` punish a wrong order: Su's 20, for cosines."""


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


def pearson(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    """1 − the correlation of scores (batch, 1) and labels over the batch: 0 at best, 2 at worst.

    1 where either side is constant, a batch of one included. Cares for neither scale nor offset of the scores.
    """
    score, target = _unit(outputs.float().squeeze(-1), shape), _unit(labels.float(), shape)
    score, target = score - score.mean(), target - target.mean()
    # Without the floor, constant scores would have an infinite gradient.
    norms = ((score.square().mean() + FLOOR) * (target.square().mean() + FLOOR)).sqrt()
    return 1 - (score * target).mean() / norms


def cosent(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    """CoSENT (Su 2022): log(1 + Σ exp(20 (s_j − s_i))) over all i, j of the batch with label i above label j.

    Asks for the right order, not for the labels. Scores (batch, 1) count on the scale where the label range is [0, 1].
    Divided by what equal scores would cost, log(1 + number of pairs), so that a constant guess costs 1 whatever the
    size of the batch; 0 where no two labels differ. Sorts instead of comparing all pairs: n log n, for whole splits.
    """
    import torch

    target, order = labels.float().sort()
    score = STEEPNESS * _unit(outputs.float().squeeze(-1), shape)[order]
    lower = torch.searchsorted(target, target)  # how many labels are strictly below each
    above = lower > 0
    if not above.any():
        return score.sum() * 0.0
    # Σ over j below i of exp(s_j), as a logarithm: a running sum, read off where i's ties begin.
    below = torch.logcumsumexp(score, 0)[lower[above] - 1]
    wrong = torch.logsumexp(torch.cat([score.new_zeros(1), below - score[above]]), 0)
    return wrong / torch.log1p(lower.sum().double()).float()


def calibrated_cosent(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    """`cosent` for the order of the scores (batch, 1), plus `mse` so that they stay on the scale of the labels."""
    return cosent(outputs, labels, shape) + mse(outputs, labels, shape)


def multiple_negatives(pairs: Tensor, positive: Tensor) -> Tensor:
    """Multiple-negatives ranking (Henderson et al. 2017): each first sentence has to find its second in the batch.

    Cross-entropy of 20 times the cosines with all second sentences of the batch, and the same the other way round.

    Args:
        pairs: (batch, 2, hidden).
        positive: (batch,) bool: the pairs that mean the same. The others are negatives only.

    Returns:
        (), the mean over the positive pairs; 0 where there is none.
    """
    import torch
    from torch.nn import functional

    first, second = functional.normalize(pairs.float(), dim=-1).unbind(1)
    scores = STEEPNESS * first @ second.T
    wanted = torch.arange(len(scores), device=scores.device)
    losses = (functional.cross_entropy(each, wanted, reduction="none") for each in (scores, scores.T))
    return torch.where(positive, sum(losses, scores.new_zeros(())), 0).sum() / (2 * positive.sum().clamp(min=1))


def _unit(values: Tensor, shape: TaskShape) -> Tensor:
    return (values - shape.low) / (shape.high - shape.low)
