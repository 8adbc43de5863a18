"""How heads are timed in turns, and what may be said of a ratio."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchkit.speed import Limits, ratio, repeatable
from benchkit.speed.measure import Clock, describe_error, take_turns
from benchkit.speed.setup import Mark, Run


def test_heads_take_turns_forth_and_back() -> None:
    order: list[str] = []

    def maker(name: str) -> Callable[[], Run]:
        def make() -> Run:
            order.append(f"make {name}")
            return lambda mark: order.append(name)

        return make

    limits = Limits(warmup=3, iterations=40, seconds=0.0004, repeats=4)
    timed = take_turns({"a": maker("a"), "b": maker("b")}, limits, Clock(torch.device("cpu")))
    assert order[:8] == ["make a", "make b", "a", "a", "a", "b", "b", "b"]
    turns = [name for name, _ in itertools.groupby(order[8:]) if len(name) == 1]
    assert turns[:4] == ["a", "b", "a", "b"]  # A B B A | A B B A: two that meet are one turn here
    assert order.count("make a") == order.count("make b") == 4
    for each in timed.values():
        assert len(each.steps) == len(each.cycles) == 4
        assert len(each.all_steps) >= limits.iterations
        assert sum(each.all_steps) >= limits.seconds


def test_one_that_fails_is_given_up_and_the_others_go_on() -> None:
    count = itertools.count()

    def make() -> Run:
        def step(mark: Mark) -> None:
            if next(count) > 5:
                raise ValueError("no more\nof this")

        return step

    def refuse() -> Run:
        raise MemoryError

    makers = {"good": lambda: lambda mark: None, "bad": make, "none": refuse}
    timed = take_turns(makers, Limits(1, 20, 0.001, 3), Clock(torch.device("cpu")))
    assert [each.error for each in timed.values()] == ["", "ValueError: no more of this", "out of memory"]
    assert len(timed["good"].all_steps) >= 20


def test_out_of_memory_is_called_so() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert describe_error(found.value).startswith("out of memory: ")


def test_a_steady_drift_leaves_the_ratio() -> None:
    """A B B A while the machine gets slower by 1 % a block."""
    slow = itertools.count()

    def block(seconds: float) -> float:
        return seconds * 1.01 ** next(slow)

    base, other = [], []
    for _ in range(6):
        first, second, third, fourth = block(1.0), block(1.5), block(1.5), block(1.0)
        base.append([(first + fourth) / 2])
        other.append([(second + third) / 2])
    found = ratio(base, other)
    assert [found.low, found.high] == pytest.approx([1.5, 1.5], rel=1e-3)


def test_another_run_falls_into_the_interval_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        first, second = (repeatable(np.exp(random.normal(0, 0.1, 8)).tolist()) for _ in range(2))
        inside += first.low <= second.value <= first.high
    assert 930 <= inside <= 970


def test_intervals_that_hold_together_are_wider() -> None:
    values = [1.0, 1.1, 0.9, 1.05]
    alone, together = repeatable(values), repeatable(values, family=6)
    assert alone.value == together.value
    assert together.low < alone.low < alone.high < together.high


def test_few_and_wild_repeats_have_a_range_that_is_a_number() -> None:
    found = repeatable([1e-6, 1.0], family=1000)
    assert 0 < found.low < found.value < found.high < float("inf")
