"""The order of batches is a function of (sizes, batch size, sampling, seed, phase, epoch) and of nothing else."""

from __future__ import annotations

import functools
import random
from collections import Counter
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from benchkit.training.batches import Order, hash_order

SIZES = {"sst": 50, "quora": 33, "sts": 7}
SAMPLINGS = ["proportional", "round_robin", "annealed"]
Batches = list[tuple[str, Tensor]]


def order(**changes: Any) -> Order:
    values: dict[str, Any] = {
        "sizes": SIZES, "batch_size": 8, "sampling": "proportional", "seed": 0, "phase": "pretrain", "epochs": 5
    }  # fmt: skip
    return Order(**{**values, **changes})


def plain(batches: Batches) -> list[tuple[str, list[int]]]:
    return [(task, examples.tolist()) for task, examples in batches]


def hash_of(*epochs: Batches) -> str:
    return functools.reduce(hash_order, map(list, epochs), "")


@pytest.mark.parametrize("seed", range(30))
def test_proportional_sees_each_example_once_an_epoch(seed: int) -> None:
    draw = random.Random(seed)
    sizes = {name: draw.randint(1, 60) for name in "abcd"[: draw.randint(1, 4)]}
    batch_size = draw.choice([1, draw.randint(2, 70)])
    made = order(sizes=sizes, batch_size=batch_size, seed=draw.randrange(2**40))
    batches = list(made.epoch(draw.randint(1, 5)))
    seen = Counter((task, example) for task, examples in batches for example in examples.tolist())
    assert seen == Counter((task, example) for task, size in sizes.items() for example in range(size))
    assert len(batches) == made.steps()
    assert all(1 <= len(examples) <= batch_size for _, examples in batches)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_all_ways_take_the_same_number_of_steps(sampling: str) -> None:
    made = order(sampling=sampling)
    assert made.steps() == 7 + 5 + 1
    assert len(list(made.epoch(1))) == made.steps()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_same_question_has_the_same_answer(sampling: str) -> None:
    made, again = order(sampling=sampling), order(sampling=sampling)
    third = plain(list(made.epoch(3)))
    list(made.epoch(1))
    torch.manual_seed(5)
    assert plain(list(made.epoch(3))) == third, "not even after other epochs"
    assert plain(list(again.epoch(3))) == third


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("change", [{"seed": 1}, {"phase": "finetune"}, {"batch_size": 4}])
def test_another_question_has_another(sampling: str, change: dict[str, Any]) -> None:
    first = plain(list(order(sampling=sampling).epoch(1)))
    assert plain(list(order(sampling=sampling, **change).epoch(1))) != first
    assert plain(list(order(sampling=sampling).epoch(2))) != first


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_pass_repeats_no_example_before_all_were_seen(sampling: str) -> None:
    for task, size in SIZES.items():
        examples = [i for name, batch in order(sampling=sampling).epoch(2) if name == task for i in batch.tolist()]
        for start in range(0, len(examples), size):
            part = examples[start : start + size]
            assert len(set(part)) == len(part)


def test_proportional_mixes_the_tasks() -> None:
    names = [task for task, _ in order(sizes={"a": 400, "b": 400}, batch_size=4).epoch(1)]
    changes = sum(first != second for first, second in pairwise(names))
    assert 70 < changes < 130, "about half of 199 neighbours differ"


def test_round_robin_takes_tasks_in_turn() -> None:
    names = [task for task, _ in order(sampling="round_robin").epoch(1)]
    assert names == (["sst", "quora", "sts"] * 5)[:13]


def test_a_small_task_begins_again_reshuffled() -> None:
    made = order(sizes={"big": 400, "small": 20}, batch_size=4, sampling="round_robin")
    small = [batch.tolist() for task, batch in made.epoch(1) if task == "small"]
    assert len(small) > 10
    first, second = small[:5], small[5:10]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(20))
    assert first != second


def share(epoch: int, epochs: int = 5) -> float:
    """Of the large task's steps, over 20 seeds; 0.9 of the examples are its."""
    sizes = {"large": 900, "small": 100}
    names = [
        task
        for seed in range(20)
        for task, _ in order(sizes=sizes, sampling="annealed", seed=seed, epochs=epochs, batch_size=10).epoch(epoch)
    ]
    return names.count("large") / len(names)


def test_annealed_goes_from_proportional_to_nearly_uniform() -> None:
    # Shares of 9^a / (9^a + 1) with a = 1, 0.6, 0.2; 2,000 draws have a standard error of about 0.01.
    assert share(1) == pytest.approx(0.900, abs=0.03)
    assert share(3) == pytest.approx(0.789, abs=0.03)
    assert share(5) == pytest.approx(0.608, abs=0.03)


def test_annealed_for_one_epoch_is_proportional() -> None:
    assert share(1, epochs=1) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_tasks_smaller_than_a_batch_come_whole(sampling: str) -> None:
    made = order(sizes={"one": 1, "three": 3}, batch_size=64, sampling=sampling)
    batches = list(made.epoch(1))
    assert len(batches) == made.steps() == 2
    assert all(len(examples) == made.sizes[task] for task, examples in batches)


def test_equal_orders_have_equal_hashes() -> None:
    epochs = [list(order().epoch(epoch)) for epoch in (1, 2)]
    again = [list(order().epoch(epoch)) for epoch in (1, 2)]
    assert hash_of(*epochs) == hash_of(*again)


def test_a_hash_knows_task_example_order_and_epoch() -> None:
    a, b = torch.tensor([1, 2]), torch.tensor([3, 4])
    hashes = [
        hash_of(),
        hash_of([("x", a), ("y", b)]),
        hash_of([("y", b), ("x", a)]),
        hash_of([("x", b), ("y", a)]),
        hash_of([("x", a.flip(0)), ("y", b)]),
        hash_of([("x", a)], [("y", b)]),
        hash_of([("x", a), ("x", b)]),
        hash_of([("x", torch.cat([a, b]))]),
    ]
    assert len(set(hashes)) == len(hashes)


def test_a_hash_can_be_taken_up_again_after_an_epoch() -> None:
    epochs = [list(order().epoch(epoch)) for epoch in (1, 2, 3)]
    assert hash_order(hash_of(*epochs[:2]), epochs[2]) == hash_of(*epochs)
    assert len({hash_of(*epochs), hash_of(*epochs[1:]), hash_of(epochs[2])}) == 3, "of all epochs, not of the last"
