"""From a head's outputs to predictions and scores; outputs that are none."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from helpers.training import SHAPES, TASKS, WIDTH, Memory, Net, make_modules, make_work, train
from torch import Tensor, nn

from benchkit.core.features import Pooled
from benchkit.nn.losses import cross_entropy, mse
from benchkit.training.batches import Part
from benchkit.training.evaluation import decide, evaluate, forward


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_wrong_shape_is_one_line_that_says_what_was_expected(width: int) -> None:
    class Wrong(Net):
        def forward(self, features: Pooled, task: str) -> Tensor:
            return features.pooled[:, 0, :width]

    context, vectors = make_work(("topic",))
    message = rf"forward\(features, 'topic'\) must return a tensor \(16, 3\), it returned \(16, {width}\)"
    with pytest.raises(ValueError, match=message) as caught:
        train(context, vectors, nn.ModuleDict({"head": Wrong()}))
    assert "\n" not in str(caught.value)


def test_what_is_no_tensor_is_named() -> None:
    class Wrong(nn.Module):
        def forward(self, features: Pooled, task: str) -> Any:
            return features, task

    with pytest.raises(ValueError, match="it returned tuple"):
        forward(Wrong(), Pooled(torch.zeros(2, 1, 4)), SHAPES["topic"], 2)


def test_half_precision_outputs_are_scored_in_full() -> None:
    outputs = forward(Net().bfloat16(), Pooled(torch.zeros(2, 1, WIDTH, dtype=torch.bfloat16)), SHAPES["topic"], 2)
    assert outputs.dtype == torch.float32


def test_a_large_split_is_scored_in_parts_as_if_in_one() -> None:
    _, vectors = make_work()
    rows = torch.randint(300, (1500, 1), generator=torch.Generator().manual_seed(1))
    part = Part(rows, torch.zeros(1500, dtype=torch.int64), ("",) * 1500)
    head = Net(0.5)
    found = evaluate(head, Memory(vectors), part, TASKS["topic"], SHAPES["topic"], cross_entropy)
    with torch.no_grad():
        outputs = head.eval()(Pooled(vectors[rows]), "topic")
    assert (found.predictions == outputs.argmax(1).numpy()).all()
    assert found.scores == pytest.approx(outputs.softmax(1).max(1).values.numpy(), abs=1e-6)
    assert found.value == float((outputs.argmax(1) == 0).double().mean())
    assert found.loss == pytest.approx(float(cross_entropy(outputs, torch.zeros(1500), SHAPES["topic"])), rel=1e-5)


def test_an_unlabelled_split_has_predictions_and_no_score() -> None:
    context, vectors = make_work()
    part = dataclasses.replace(context.corpus.parts["score", "dev"], labels=None)
    found = evaluate(Net(), Memory(vectors), part, TASKS["score"], SHAPES["score"], mse)
    assert math.isnan(found.value)
    assert math.isnan(found.loss)
    assert found.predictions.shape == found.scores.shape == (40,)


def test_decisions_are_classes_and_scores() -> None:
    predictions, scores = decide(torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]]), SHAPES["topic"])
    assert predictions.tolist() == [1, 0]
    assert scores.tolist() == pytest.approx([0.787, 0.909], abs=1e-3)
    predictions, scores = decide(torch.tensor([[1.5], [4.0]]), SHAPES["score"])
    assert predictions.tolist() == scores.tolist() == [1.5, 4.0]


def test_a_schedule_runs_over_the_whole_phase() -> None:
    context, vectors = make_work(schedule="linear", learning_rate=1.0)
    last: list[float] = []
    train(context, vectors, make_modules(), on_epoch=lambda s: last.append(s.optimizer["lr"]))
    steps = context.order.steps()
    assert last == pytest.approx([1 - (epoch * steps - 1) / (4 * steps) for epoch in (1, 2, 3, 4)])


def test_each_epoch_draws_its_own_dropout() -> None:
    drawn: list[float] = []

    class Drawing(Net):
        def forward(self, features: Pooled, task: str) -> Tensor:
            if self.training:
                drawn.append(float(torch.rand(())))
            return super().forward(features, task)

    context, vectors = make_work()
    train(context, vectors, nn.ModuleDict({"head": Drawing()}))
    assert len(set(drawn)) == len(drawn) == 4 * context.order.steps()
