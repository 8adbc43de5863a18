"""Losses, metrics and the three tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from benchkit_cs224n import QUORA, SST, STS, benchkit_tasks

from benchkit.core.task import Loss, Metric
from benchkit.nn import losses, metrics

SCORE, CLASSES = STS.shape(), SST.shape()


def test_accuracy() -> None:
    assert metrics.accuracy.score(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == 0.75


def test_pearson() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=50), rng.normal(size=50)
    assert metrics.pearson.score(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-12)
    assert metrics.pearson.score(first, 3 - first) == pytest.approx(-1)
    assert metrics.pearson.score(first, first * 1e-200) == pytest.approx(1)


@pytest.mark.parametrize("metric", [metrics.pearson, metrics.spearman])
def test_constant_predictions_score_zero(metric: Metric) -> None:
    labels = np.array([0.0, 2.5, 5.0])
    assert metric.score(labels, np.full(3, 0.1, dtype=np.float32)) == 0.0
    assert metric.score(labels[:1], labels[:1]) == 0.0


def test_diverged_predictions_are_not_hidden() -> None:
    assert math.isnan(metrics.pearson.score(np.array([0.0, 1.0]), np.array([np.nan, 1.0])))


def test_spearman_shares_ranks_of_ties() -> None:
    from scipy.stats import spearmanr

    first, second = np.array([1, 2, 2, 3, 9.0]), np.array([1, 3, 2, 2, 100.0])
    assert metrics.spearman.score(first, second) == pytest.approx(spearmanr(first, second).statistic)


def test_a_metric_refuses_what_does_not_fit() -> None:
    for labels, predictions in (
        (np.zeros(0), np.zeros(0)),
        (np.zeros(3), np.zeros(2)),
        (np.zeros(3), np.zeros((3, 1))),
    ):
        with pytest.raises(ValueError, match="two vectors of one length"):
            metrics.accuracy.score(labels, predictions)


def test_cross_entropy() -> None:
    loss = losses.cross_entropy(torch.zeros(4, 5, dtype=torch.bfloat16), torch.tensor([0, 1, 2, 4]), CLASSES)
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    assert loss.item() == pytest.approx(math.log(5))


def test_binary_cross_entropy_is_on_the_unit_scale() -> None:
    scores, labels = torch.tensor([[1.0], [4.0]]), torch.tensor([2.5, 5.0])
    expected = (-0.5 * math.log(0.2) - 0.5 * math.log(0.8) - math.log(0.8)) / 2
    assert losses.binary_cross_entropy(scores, labels, SCORE).item() == pytest.approx(expected)


def test_binary_cross_entropy_is_finite_at_and_beyond_the_ends() -> None:
    scores = torch.tensor([[0.0], [5.0], [-1.0], [9.0]], requires_grad=True)
    loss = losses.binary_cross_entropy(scores, torch.tensor([5.0, 0.0, 5.0, 0.0]), SCORE)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == pytest.approx(-math.log(1e-6), rel=0.01)
    assert torch.isfinite(gradient).all()


def test_binary_cross_entropy_is_least_at_the_label() -> None:
    grid = torch.linspace(0, 5, 101)
    values = [losses.binary_cross_entropy(score.view(1, 1), torch.tensor([3.5]), SCORE) for score in grid]
    assert grid[int(torch.stack(values).argmin())].item() == pytest.approx(3.5)


def test_mse_is_on_the_unit_scale() -> None:
    assert losses.mse(torch.tensor([[1.0], [5.0]]), torch.tensor([3.5, 5.0]), SCORE).item() == pytest.approx(0.125)


@pytest.mark.parametrize("loss", [losses.binary_cross_entropy, losses.mse])
def test_bf16_scores_are_judged_in_fp32(loss: Loss) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            loss(torch.full((2, 1), 2.0, dtype=torch.bfloat16), torch.tensor([1.0, 2.0]), SCORE).dtype == torch.float32
        )


def test_the_tasks_are_the_reports() -> None:
    assert [task.name for task in benchkit_tasks()] == ["sst", "quora", "sts"]
    assert [
        (t.shape().segments, t.shape().classes, t.metric.name, next(iter(t.losses))) for t in (SST, QUORA, STS)
    ] == [
        (1, 5, "accuracy", "cross_entropy"),
        (2, 2, "accuracy", "cross_entropy"),
        (2, 0, "pearson", "bce"),
    ]
    assert (STS.low, STS.high, list(STS.losses)) == (0.0, 5.0, ["bce", "mse", "pearson", "cosent", "calibrated_cosent"])
