"""One phase of training, with real modules on small learnable data held in memory."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from helpers.training import SHAPES, TASKS, curve, equal, from_disk, make_modules, make_work, on_disk, train, weights
from torch import Tensor

from benchkit.training.batches import Corpus
from benchkit.training.loop import State


@pytest.mark.parametrize("encoder", [False, True], ids=["stored", "live"])
def test_what_can_be_learnt_is_learnt(encoder: bool) -> None:
    context, vectors = make_work(epochs=20, learning_rate=0.02)
    state = train(context, vectors, make_modules(dropout=0.0, encoder=encoder))
    assert not state.diverged
    assert not state.events
    for task in TASKS:
        losses, values = curve(state, task, "train", "loss"), curve(state, task, "dev", "value")
        assert len(losses) == len(values) == 20
        assert losses[-1] < 0.7 * losses[0]
        assert values[-1] > values[0]
        assert values[-1] > 0.7


@pytest.mark.parametrize("encoder", [False, True], ids=["stored", "live"])
@pytest.mark.parametrize("sampling", ["proportional", "round_robin", "annealed"])
def test_resumed_from_any_epoch_it_ends_the_same_to_the_last_bit(encoder: bool, sampling: str) -> None:
    context, vectors = make_work(sampling=sampling, schedule="cosine", warmup=0.2, clip=1.0)
    saved: list[bytes] = []
    modules = make_modules(encoder=encoder)
    whole = train(context, vectors, modules, on_epoch=lambda state: saved.append(on_disk(state)))
    assert len(saved) == 4
    last = from_disk(saved[-1])
    for data in saved:
        torch.manual_seed(len(data))  # another process has another global generator
        again: list[bytes] = [data]
        resumed = make_modules(encoder=encoder)
        for parameter in resumed.parameters():
            parameter.data.fill_(0.5)
        state = train(context, vectors, resumed, from_disk(data), on_epoch=lambda each: again.append(on_disk(each)))  # noqa: B023
        assert equal(weights(resumed), weights(modules))
        end = from_disk(again[-1])
        assert equal(end.weights, last.weights)
        assert end.optimizer["lr"] == last.optimizer["lr"]
        for index, moments in last.optimizer["state"].items():
            assert equal(end.optimizer["state"][index], moments)
        assert state.curve == whole.curve
        assert state.order_hash == whole.order_hash
        assert (state.epoch, state.best_epoch, state.best_score) == (4, whole.best_epoch, whole.best_score)
        assert state.events == whole.events


def test_a_saved_epoch_is_not_changed_by_the_next() -> None:
    context, vectors = make_work(epochs=3)
    states: list[State] = []
    last: list[dict[str, Tensor]] = []

    def keep(state: State) -> None:
        states.append(from_disk(on_disk(state)))
        last[:] = [copy.deepcopy(state.weights)]

    final = train(context, vectors, make_modules(), on_epoch=keep)
    assert [state.epoch for state in states] == [1, 2, 3]
    assert not equal(states[0].weights, states[1].weights)
    assert equal(states[2].weights, last[0])
    assert [len(state.curve) for state in states] == [6, 12, 18]
    assert final.order_hash == states[2].order_hash != states[1].order_hash


def test_the_best_epochs_weights_are_left() -> None:
    # What is learnt on train is wrong on dev: the more, the worse.
    context, vectors = make_work(("topic", "match"), epochs=6)
    parts = dict(context.corpus.parts)
    for task in context.tasks:
        dev = parts[task, "dev"]
        assert dev.labels is not None
        parts[task, "dev"] = dataclasses.replace(dev, labels=(dev.labels + 1) % SHAPES[task].classes)
    context = dataclasses.replace(context, corpus=Corpus(context.corpus.inputs, parts))
    modules, seen = make_modules(dropout=0.0), []
    state = train(context, vectors, modules, on_epoch=lambda state: seen.append(weights(modules)))
    means = [sum(curve(state, task, "dev", "value")[epoch] for task in context.tasks) / 2 for epoch in range(6)]
    assert state.best_epoch == 1 + max(range(6), key=means.__getitem__) < 6
    assert state.best_score == pytest.approx(max(means))
    assert equal(weights(modules), seen[state.best_epoch - 1])
    assert not equal(weights(modules), seen[-1])


def test_of_equally_good_epochs_the_first_is_kept() -> None:
    context, vectors = make_work(epochs=3, learning_rate=0.0, weight_decay=0.0)
    assert train(context, vectors, make_modules()).best_epoch == 1
