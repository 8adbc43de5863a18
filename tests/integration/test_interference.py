"""Cosines of the tasks' gradients: what they are, and that measuring them changes no number."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.runs import run
from helpers.training import (
    SHAPES,
    TASKS,
    WIDTH,
    Net,
    equal,
    from_disk,
    make_modules,
    make_work,
    on_disk,
    train,
    weights,
)
from torch import Tensor, nn

from benchkit.analysis.baselines import interference_section
from benchkit.analysis.tables import render
from benchkit.core.features import Pooled
from benchkit.core.record import Record
from benchkit.core.rng import generator
from benchkit.nn.blocks import finish, joined
from benchkit.training.evaluation import PhaseContext
from benchkit.training.loop import State


class Restless(Net):
    """Normalises over the batch, keeps running means, and draws numbers even in eval mode."""

    def __init__(self) -> None:
        super().__init__(0.3)
        self.norm = nn.BatchNorm1d(16)

    def forward(self, features: Pooled, task: str) -> Tensor:
        shared = self.dropout(torch.tanh(self.trunk(features.pooled)))
        shared = self.norm(shared.flatten(0, 1)).view_as(shared) + 0 * torch.rand(1)
        return finish(self.branches[task](joined(shared)), SHAPES[task])


def both(context: PhaseContext) -> tuple[PhaseContext, PhaseContext]:
    return context, dataclasses.replace(context, interference=True)


@pytest.mark.parametrize("encoder", [False, True])
def test_measuring_changes_no_number(encoder: bool) -> None:
    context, vectors = make_work(epochs=3)
    found: list[tuple[State, dict[str, Tensor]]] = []
    for each in both(context):
        modules = make_modules(encoder=encoder)
        modules["head"] = Restless().requires_grad_(True)
        modules["head"].load_state_dict(START)
        found.append((train(each, vectors, modules), weights(modules)))
    (plain, first), (measured, second) = found
    assert equal(first, second)
    assert plain.curve == measured.curve
    assert plain.order_hash == measured.order_hash
    assert not plain.interference
    parts = {"trunk", "encoder"} if encoder else {"trunk"}
    assert {each["part"] for each in measured.interference} == parts
    assert len(measured.interference) == 3 * 3 * len(parts)  # epochs, pairs


START = Restless().state_dict()


def test_the_cosine_is_that_of_the_gradients() -> None:
    """Computed again by backward, at the weights after the only epoch."""
    context, vectors = make_work(("topic", "score"), epochs=1)
    modules = make_modules(dropout=0.0)
    state = train(dataclasses.replace(context, interference=True), vectors, modules)
    gradients = []
    for task in ("topic", "score"):
        part = context.corpus.parts[task, "train"]
        assert part.labels is not None
        drawn = torch.randperm(len(part), generator=generator(0, "interference", "pretrain", task))[:64]
        modules.zero_grad()
        outputs = modules["head"](Pooled(vectors[part.rows[drawn]]), task)
        context.losses[task](outputs, part.labels[drawn], SHAPES[task]).backward()  # type: ignore[no-untyped-call]
        trunk = [each.grad for name, each in modules.named_parameters() if name.startswith("head.trunk.")]
        gradients.append(torch.cat([each.flatten() for each in trunk if each is not None]))
    expected = torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    (found,) = state.interference
    assert (found["a"], found["b"], found["part"], found["epoch"]) == ("topic", "score", "trunk", 1)
    assert found["value"] == pytest.approx(float(expected), abs=1e-5)


def test_tasks_that_share_nothing_have_no_cosine() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.ModuleDict({s.name: nn.Linear(WIDTH * s.segments, s.out) for s in SHAPES.values()})

        def forward(self, features: Pooled, task: str) -> Tensor:
            return finish(self.own[task](joined(features.pooled)), SHAPES[task])

    context, vectors = make_work(epochs=1)
    modules = nn.ModuleDict({"head": Apart()})
    assert train(dataclasses.replace(context, interference=True), vectors, modules).interference == []


def test_a_resumed_phase_has_all_of_its_epochs() -> None:
    context, vectors = make_work(epochs=3)
    context = dataclasses.replace(context, interference=True)
    saved: list[bytes] = []
    whole = train(context, vectors, make_modules(), on_epoch=lambda state: saved.append(on_disk(state)))
    resumed = train(context, vectors, make_modules(), from_disk(saved[0]))
    assert resumed.interference == whole.interference
    assert {each["epoch"] for each in whole.interference} == {1, 2, 3}
    assert {(each["a"], each["b"]) for each in whole.interference} <= {(a, b) for a in TASKS for b in TASKS if a != b}


def test_a_finished_cell_is_measured_later_to_the_same_numbers(tmp_path: Path) -> None:
    (before,) = run(tmp_path, "baseline").cells
    (after,) = run(tmp_path, "baseline", interference=True).cells
    assert before.phases[0].interference is None
    assert after.phases[0].interference
    assert (after.key, after.predictions_sha256) == (before.key, before.predictions_sha256)
    assert after.phases[0].curve == before.phases[0].curve
    assert run(tmp_path, "baseline").cells == (after,)  # and is reused by who does not ask
    assert run(tmp_path, "baseline", interference=True).cells == (after,)
    assert Record.from_dict(after.to_dict()) == after
    section = interference_section([after])
    assert section is not None
    text = render(section)
    assert "pretrain · trunk" in text
    assert text.count("baseline ") == 3  # pairs
    assert interference_section([before]) is None
