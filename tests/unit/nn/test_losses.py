"""Losses that compare the examples of a batch: what they are, and that no batch turns them into NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from benchkit_cs224n import STS
from torch import Tensor

from benchkit.core.task import Loss
from benchkit.nn import losses, metrics
from benchkit.training.constants import constant_loss

SHAPE = STS.shape()
both = pytest.mark.parametrize("loss", [losses.cosent, losses.pearson])


def batch(size: int = 40) -> tuple[Tensor, Tensor]:
    """Scores and labels in [0, 5]; the labels with many ties, as in STS."""
    random = torch.Generator().manual_seed(size)
    scores = torch.rand(size, 1, generator=random) * 5
    return scores.requires_grad_(), torch.randint(0, 11, (size,), generator=random) / 2


def pairwise(scores: Tensor, labels: Tensor) -> Tensor:
    """CoSENT as Su writes it, a pair at a time, over what equal scores cost."""
    wrong, pairs = torch.ones(()), 0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] > labels[j]:
                wrong = wrong + torch.exp(20 * (scores[j, 0] - scores[i, 0]) / 5)
                pairs += 1
    return wrong.log() / math.log(1 + pairs)


def gradient(loss: Tensor, scores: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss, scores)
    return found


def test_cosent_is_the_sum_over_all_pairs() -> None:
    scores, labels = batch(12)
    ours, theirs = losses.cosent(scores, labels, SHAPE), pairwise(scores, labels)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, scores), gradient(theirs, scores), rtol=1e-3, atol=1e-6)


def test_cosent_asks_for_order_alone() -> None:
    _, labels = batch()
    right = losses.cosent(labels[:, None], labels, SHAPE)
    assert right < 0.6
    assert losses.cosent(5 - labels[:, None], labels, SHAPE) > 2
    torch.testing.assert_close(losses.cosent(labels[:, None] - 100, labels, SHAPE), right)


def test_pearson_is_one_minus_the_metric() -> None:
    scores, labels = batch()
    metric = metrics.pearson.score(labels.numpy(), scores.detach()[:, 0].numpy())
    assert losses.pearson(scores, labels, SHAPE).item() == pytest.approx(1 - metric, abs=1e-5)
    assert losses.pearson(3 + 0.1 * labels[:, None], labels, SHAPE).item() == pytest.approx(0, abs=1e-4)
    assert losses.pearson(-labels[:, None], labels, SHAPE).item() == pytest.approx(2, abs=1e-4)


@both
@pytest.mark.parametrize("size", [2, 64, 1024])
@pytest.mark.parametrize("score", [0.0, 0.1, 5.0])
def test_a_constant_guess_costs_1_whatever_the_batch(loss: Loss, size: int, score: float) -> None:
    labels = torch.linspace(0, 5, size)
    scores = torch.full((size, 1), score, requires_grad=True)
    value = loss(scores, labels, SHAPE)
    assert value.item() == pytest.approx(1, abs=1e-4)
    assert gradient(value, scores).isfinite().all()
    assert gradient(loss(scores, labels, SHAPE), scores).abs().sum() > 0, "it could never be left"


@both
@pytest.mark.parametrize("size", [1, 2, 64])
@pytest.mark.parametrize("constant", [True, False])
def test_labels_that_are_all_equal_ask_for_nothing(loss: Loss, size: int, constant: bool) -> None:
    scores = torch.full((size, 1), 2.0) if constant else batch(size)[0].detach()
    scores.requires_grad_()
    value = loss(scores, torch.full((size,), 3.3), SHAPE)
    assert value.item() == pytest.approx(0 if loss is losses.cosent else 1, abs=1e-4)
    assert gradient(value, scores).abs().max() < 1e-3


@both
def test_scores_far_out_of_range_stay_finite(loss: Loss) -> None:
    scores, labels = batch()
    far = (scores.detach() * 1e4).requires_grad_()
    value = loss(far, labels, SHAPE)
    assert value.isfinite()
    assert gradient(value, far).isfinite().all()


@both
def test_half_precision_is_summed_in_full(loss: Loss) -> None:
    scores, labels = batch()
    value = loss(scores.detach().bfloat16(), labels.double(), SHAPE)
    assert (value.dtype, value.shape) == (torch.float32, ())
    torch.testing.assert_close(value, loss(scores, labels, SHAPE), rtol=0.05, atol=0)


@both
def test_the_order_of_a_batch_does_not_matter(loss: Loss) -> None:
    scores, labels = batch()
    shuffled = torch.randperm(len(labels))
    torch.testing.assert_close(loss(scores[shuffled], labels[shuffled], SHAPE), loss(scores, labels, SHAPE))


@pytest.mark.parametrize("name", ["cosent", "pearson"])
def test_divergence_is_measured_against_1(name: str) -> None:
    labels = np.random.default_rng(0).integers(0, 26, 3000) / 5  # more than controls look at in one go
    assert constant_loss(STS, STS.losses[name], labels) == pytest.approx(1, abs=1e-3)


def test_cosent_takes_a_whole_split() -> None:
    labels = torch.rand(100_000) * 5  # all pairs would be 40 GB
    assert losses.cosent(labels[:, None], labels, SHAPE) < losses.cosent(labels.flip(0)[:, None], labels, SHAPE)
