"""What a step changes, and what it leaves alone: branches, streams, settings, modes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.training import TASKS, Net, equal, make_modules, make_work, train, weights
from torch import Tensor, nn

from benchkit.core.features import Pooled
from benchkit.core.task import TaskShape
from benchkit.training.batches import hash_order


@pytest.mark.parametrize("trained", list(TASKS))
def test_a_tasks_steps_leave_the_other_branches_alone(trained: str) -> None:
    context, vectors = make_work((trained,), weight_decay=0.5)
    modules = make_modules()
    before = weights(modules)
    train(context, vectors, modules)
    for name, value in modules.state_dict().items():
        own = name.startswith(("head.trunk", f"head.branches.{trained}."))
        assert torch.equal(value, before[name]) != own, name


def test_even_after_they_had_steps_of_their_own() -> None:
    # AdamW's momentum must not carry a branch on while other tasks are trained.
    context, vectors = make_work(sampling="round_robin", epochs=1)
    modules = make_modules()
    moved: list[tuple[str, set[str]]] = []

    def watch(name: str) -> Callable[[Tensor, Tensor, TaskShape], Tensor]:
        inner = context.losses[name]

        def loss(outputs: Tensor, labels: Tensor, shape: TaskShape) -> Tensor:
            now = weights(modules)
            if moved and outputs.requires_grad:
                last = moved[-1][0]
                changed = {
                    each
                    for each in TASKS
                    if not torch.equal(now[f"head.branches.{each}.bias"], kept[f"head.branches.{each}.bias"])
                }
                moved[-1] = (last, changed)
            kept.update(now)
            if outputs.requires_grad:
                moved.append((name, {name}))
            return inner(outputs, labels, shape)

        return loss

    kept: dict[str, Tensor] = {}
    train(dataclasses.replace(context, losses={name: watch(name) for name in TASKS}), vectors, modules)
    assert len(moved) > 10
    assert all(changed == {name} for name, changed in moved)


def test_dropout_does_not_move_the_batches() -> None:
    context, vectors = make_work()
    orders = {train(context, vectors, make_modules(dropout)).order_hash for dropout in (0.0, 0.2, 0.6)}
    assert len(orders) == 1
    other, _ = make_work()
    other = dataclasses.replace(other, order=dataclasses.replace(other.order, seed=1))
    assert train(other, vectors, make_modules()).order_hash not in orders


def test_the_order_hash_is_of_all_epochs() -> None:
    context, vectors = make_work(epochs=2)
    first, second = (list(context.order.epoch(epoch)) for epoch in (1, 2))
    both = hash_order(hash_order("", first), second)
    assert train(context, vectors, make_modules()).order_hash == both != hash_order("", second)


def test_training_leaves_torchs_generator_alone() -> None:
    context, vectors = make_work(epochs=1)
    modules = make_modules()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train(context, vectors, modules)
    assert torch.equal(torch.rand(2), expected)


def test_training_is_a_function_of_the_seed() -> None:
    context, vectors = make_work()
    found = []
    for seed in (0, 0, 1):
        modules = make_modules()
        train(dataclasses.replace(context, seed=seed), vectors, modules)  # the same batches; dropout is what differs
        found.append(weights(modules))
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


@pytest.mark.parametrize(
    "settings",
    [{"weight_decay": 1.0}, {"clip": 0.01}, {"schedule": "linear"}, {"warmup": 0.5}, {"learning_rate": 0.02}],
    ids=lambda settings: next(iter(settings)),
)
def test_each_setting_has_an_effect(settings: dict[str, Any]) -> None:
    plain, changed = make_modules(0.0), make_modules(0.0)
    train(*make_work(), plain)
    train(*make_work(**settings), changed)
    assert not equal(weights(plain), weights(changed))


def test_weight_decay_shrinks() -> None:
    norms = []
    for decay in (0.0, 1.0):
        modules = make_modules(0.0)
        state = train(*make_work(weight_decay=decay), modules)
        norms.append(float(sum(value.norm() for value in state.weights.values())))
    assert norms[1] < norms[0]


def test_a_rate_of_zero_changes_nothing() -> None:
    modules = make_modules()
    before = weights(modules)
    train(*make_work(learning_rate=0.0), modules)
    assert equal(weights(modules), before)


def test_the_encoder_is_trained_along_where_it_is_there() -> None:
    modules = make_modules(encoder=True)
    before = weights(modules)
    train(*make_work(), modules)
    assert all(not torch.equal(value, before[name]) for name, value in modules.state_dict().items())


def test_the_mode_of_the_modules_is_set_for_each_part() -> None:
    seen: list[tuple[bool, bool]] = []

    class Watching(Net):
        def forward(self, features: Pooled, task: str) -> Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(features, task)

    context, vectors = make_work(epochs=2)
    train(context, vectors, nn.ModuleDict({"head": Watching().eval()}))
    steps = context.order.steps()
    assert seen == ([(True, True)] * steps + [(False, False)] * 3) * 2


def test_the_curve_is_of_the_epoch() -> None:
    context, vectors = make_work(epochs=2)
    state = train(context, vectors, make_modules())
    assert [(p["epoch"], p["task"], p["split"]) for p in state.curve] == [
        (epoch, task, split) for epoch in (1, 2) for split in ("train", "dev") for task in TASKS
    ]
    assert {p["phase"] for p in state.curve} == {"pretrain"}
    assert state.train_seconds > 0
    assert state.eval_seconds > 0
