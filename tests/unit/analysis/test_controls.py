from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchkit.core.errors import UserError
from benchkit.core.task import Metric, TaskShape, TaskSpec
from benchkit.data import Split
from benchkit.experiment.companions import Control, controls
from benchkit.training.constants import constant_loss


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float((labels == predictions).mean())


def _closeness(labels: np.ndarray, predictions: np.ndarray) -> float:
    return -float(np.abs(labels - predictions).mean())


def _cross_entropy(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    return torch.nn.functional.cross_entropy(outputs, labels)


def _squares(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    return (outputs[:, 0] - labels).square().mean()


def _soft(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
    unit = shape.high - shape.low
    return torch.nn.functional.binary_cross_entropy(outputs[:, 0] / unit, labels / unit)


TOPIC = TaskSpec(
    "topic",
    "",
    ("text",),
    "label",
    Metric("accuracy", _accuracy),
    {"ce": _cross_entropy},
    (),
    ("a", "b", "c"),
)
GRADE = TaskSpec(
    "grade",
    "",
    ("text",),
    "label",
    Metric("closeness", _closeness),
    {"mse": _squares, "bce": _soft},
    (),
    high=5,
)


def _split(task: TaskSpec, name: str, labels: list[float]) -> Split:
    texts = tuple((f"text {row}",) for row in range(len(labels)))
    ids = tuple(str(row) for row in range(len(labels)))
    return Split(task.name, name, ids, texts, np.array(labels, dtype=np.float64), "made here", "")


def test_classes_are_predicted_by_the_majority_of_train() -> None:
    splits = {
        "train": _split(TOPIC, "train", [1, 1, 1, 0, 2]),
        "dev": _split(TOPIC, "dev", [0, 0, 0, 1]),
        "test": _split(TOPIC, "test", [math.nan, math.nan]),
    }
    found = controls(TOPIC, splits)
    assert [(each.name, each.split, each.value) for each in found] == [
        ("majority class", "train", 0.6),
        ("majority class", "dev", 0.25),
    ]
    assert isinstance(found[0], Control)
    assert found[1].loss == pytest.approx(-(3 * math.log(1 / 5) + math.log(3 / 5)) / 4)


def test_a_tie_goes_to_the_first_class() -> None:
    found = controls(TOPIC, {"train": _split(TOPIC, "train", [2, 2, 1, 1, 0])})
    assert found[0].value == pytest.approx(0.4)
    assert controls(TOPIC, {"train": _split(TOPIC, "train", [2, 1])})[0].value == 0.5
    both = {"train": _split(TOPIC, "train", [2, 1]), "dev": _split(TOPIC, "dev", [1, 1, 1])}
    assert controls(TOPIC, both)[1].value == 1.0


def test_scores_are_predicted_by_the_mean_of_train() -> None:
    splits = {"train": _split(GRADE, "train", [1, 3]), "test": _split(GRADE, "test", [0, 5])}
    found = {each.split: each for each in controls(GRADE, splits)}
    assert found["test"] == Control("mean score", "grade", "test", "closeness", -2.5, 6.5)
    assert found["train"].loss == pytest.approx(1.0)
    assert controls(GRADE, splits, "bce")[0].loss == pytest.approx(-0.4 * math.log(0.4) - 0.6 * math.log(0.6))


def test_the_constant_loss_of_classes_is_their_entropy() -> None:
    """Over many batches, the last one short, it is still the mean over the examples."""
    labels = np.repeat([0.0, 1.0, 2.0], [2000, 700, 333])
    shares = np.array([2000, 700, 333]) / 3033
    assert constant_loss(TOPIC, TOPIC.losses["ce"], labels) == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-6)


def test_no_constant_has_a_lower_loss() -> None:
    labels = np.array([0.5, 1.0, 4.5, 5.0, 3.0])
    for name in ("mse", "bce"):
        best = constant_loss(GRADE, GRADE.losses[name], labels)
        for value in np.linspace(0.1, 4.9, 49):
            outputs = torch.full((5, 1), float(value))
            assert best <= float(GRADE.losses[name](outputs, torch.tensor(labels).float(), GRADE.shape())) + 1e-6


def test_a_class_that_train_lacks_has_a_finite_loss() -> None:
    splits = {"train": _split(TOPIC, "train", [0, 0, 1, 1]), "dev": _split(TOPIC, "dev", [2])}
    assert controls(TOPIC, splits)[1].loss == pytest.approx(math.log(4.5 / 0.5))


def test_an_unknown_loss_and_missing_labels_are_named() -> None:
    with pytest.raises(UserError, match=r"loss of task 'grade', 'mes'; did you mean 'mse'"):
        controls(GRADE, {"train": _split(GRADE, "train", [1, 3])}, "mes")
    with pytest.raises(ValueError, match="'topic' has no labels"):
        constant_loss(TOPIC, TOPIC.losses["ce"], np.array([math.nan]))
