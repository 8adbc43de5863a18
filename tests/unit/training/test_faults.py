"""Divergence and collapse are told from training that works."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from helpers.training import SHAPES, TASKS, Net, from_disk, make_modules, make_work, on_disk, train
from torch import Tensor, nn

from benchkit.core.features import Pooled
from benchkit.core.task import TaskShape
from benchkit.nn.losses import mse
from benchkit.training.evaluation import collapsed


@pytest.mark.parametrize("rate", [1e3, 1e5])
def test_a_huge_rate_is_named_as_diverged(rate: float) -> None:
    context, vectors = make_work(("topic",), learning_rate=rate)
    state = train(context, vectors, make_modules())
    assert "topic" in state.diverged
    assert "pretrain" in state.diverged
    assert "epoch" in state.diverged
    assert "\n" not in state.diverged


def test_a_reasonable_rate_is_not() -> None:
    for rate in (1e-5, 1e-3, 1e-2):
        context, vectors = make_work(learning_rate=rate)
        assert train(context, vectors, make_modules()).diverged == ""


def broken_loss(value: float, after: int) -> Callable[[Tensor, Tensor, TaskShape], Tensor]:
    """A loss that fails for good at its batch number `after`, counted from 0, evaluation included."""
    calls = iter(range(10**9))

    def loss(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
        return mse(outputs, labels, shape) * (value if next(calls) >= after else 1.0)

    return loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_phase(value: float) -> None:
    context, vectors = make_work(epochs=6)
    # Ten batches and one evaluation an epoch: the third epoch breaks.
    context = dataclasses.replace(context, losses={**context.losses, "score": broken_loss(value, after=25)})
    modules, epochs = make_modules(), []
    state = train(context, vectors, modules, on_epoch=lambda state: epochs.append(state.epoch))
    assert state.epoch == 3
    assert epochs == [1, 2, 3]
    assert "score" in state.diverged or "topic" in state.diverged
    assert "pretrain epoch 3" in state.diverged
    assert str(value) in state.diverged or "nan" in state.diverged
    assert 1 <= state.best_epoch <= 2
    assert all(value.isfinite().all() for value in modules.state_dict().values()), "the best weights are left"


def test_a_diverged_phase_stays_so_when_resumed() -> None:
    context, vectors = make_work()
    context = dataclasses.replace(context, losses={**context.losses, "score": broken_loss(math.nan, after=0)})
    saved: list[bytes] = []
    first = train(context, vectors, make_modules(), on_epoch=lambda state: saved.append(on_disk(state)))
    again = train(context, vectors, make_modules(), from_disk(saved[-1]))
    assert first.epoch == again.epoch == 1
    assert again.diverged == first.diverged != ""


class LastStep(Net):
    """Finite while it trains, not a number when it is looked at: weights broken by an epoch's last step."""

    def forward(self, features: Pooled, task: str) -> Tensor:
        outputs = super().forward(features, task)
        return outputs if self.training else outputs * math.nan


def test_outputs_that_are_not_finite_on_dev_are_divergence_too() -> None:
    context, vectors = make_work(epochs=1)
    state = train(context, vectors, nn.ModuleDict({"head": LastStep()}))
    assert "topic" in state.diverged
    assert "pretrain epoch 1" in state.diverged


class Constant(Net):
    def forward(self, features: Pooled, task: str) -> Tensor:
        outputs = super().forward(features, task)
        return outputs * 0 + (torch.arange(outputs.shape[1]) if SHAPES[task].classes else 2.5)


def test_a_head_that_says_one_thing_is_named_each_epoch() -> None:
    context, vectors = make_work(epochs=2)
    state = train(context, vectors, nn.ModuleDict({"head": Constant()}))
    assert len(state.events) == 6
    assert "pretrain epoch 1: topic predicts only class 'z' on dev" in state.events
    assert "pretrain epoch 2: match predicts only class 'yes' on dev" in state.events
    assert any(event.startswith("pretrain epoch 1: score predicts only 2.5") for event in state.events)


def test_collapse_is_told_from_work() -> None:
    topic, score = TASKS["topic"], TASKS["score"]
    numpy = pytest.importorskip("numpy")
    assert collapsed(numpy.array([1, 1, 1]), numpy.array([0, 1, 2]), topic) == "topic predicts only class 'y'"
    assert collapsed(numpy.array([1, 1, 1]), None, topic) == "topic predicts only class 'y'"
    assert collapsed(numpy.array([1, 1, 2]), None, topic) == ""
    assert collapsed(numpy.array([2.5, 2.5 + 1e-5]), None, score) == "score predicts only 2.5"
    assert collapsed(numpy.array([2.5, 2.6]), None, score) == ""
    assert collapsed(numpy.array([1]), None, topic) == collapsed(numpy.array([]), None, topic) == "", "nothing to tell"


def test_a_perfect_head_on_a_split_of_one_class_has_not_collapsed() -> None:
    numpy = pytest.importorskip("numpy")
    assert collapsed(numpy.array([1, 1, 1]), numpy.array([1, 1, 1]), TASKS["topic"]) == ""


def test_a_training_that_is_too_short_has_not_diverged() -> None:
    """Its loss is above a constant's, but falls."""
    context, vectors = make_work(learning_rate=1e-3, epochs=3)
    low = dataclasses.replace(context, constant_losses=dict.fromkeys(context.tasks, 1e-3))
    state = train(low, vectors, make_modules())
    losses = [each["loss"] for each in state.curve if (each["task"], each["split"]) == ("topic", "train")]
    assert losses[-1] > 1.5e-3
    assert losses[-1] < losses[0]
    assert state.diverged == ""
