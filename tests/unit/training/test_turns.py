"""Calls that take turns: always in the same order, each with its own view of what torch keeps for all."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
from helpers.training import equal, make_modules, make_work, train, weights
from torch import Tensor

from benchkit import turns
from benchkit.core.rng import global_stream
from benchkit.experiment.environment import threads
from benchkit.store.table import FeatureTable, Report
from benchkit.training.loop import State, train_phase
from benchkit.training.readers import StoredReader
from benchkit.turns import Stopped, own_time, pause, settle, sleep, together


def test_outside_of_turns_nothing_happens() -> None:
    state = torch.get_rng_state()
    pause()
    settle()
    sleep(0.0)
    assert torch.equal(torch.get_rng_state(), state)
    assert own_time() == pytest.approx(time.perf_counter(), abs=1.0)


def test_each_in_its_turn_and_results_in_order() -> None:
    seen: list[str] = []

    def call(name: str, times: int) -> Callable[[], str]:
        def run() -> str:
            for _ in range(times):
                seen.append(name)
                pause()
            return name

        return run

    assert together([call("a", 1), call("b", 3), call("c", 2)]) == ["a", "b", "c"]
    assert "".join(seen) == "abcbcb"
    assert together([]) == []


def test_turns_within_a_turn() -> None:
    seen: list[str] = []

    def call(name: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(2):
                seen.append(name)
                pause()

        return run

    together([lambda: together([call("a"), call("b")]), call("c")])
    assert "".join(seen) == "ababcc"


on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=on_cuda)]


def draws(seed: int, device: str, hand_over: Callable[[], None]) -> list[Tensor]:
    found = []
    for epoch in range(3):
        with global_stream(seed, "dropout", epoch):
            for _ in range(4):
                found.append(torch.rand(3, device=device))
                hand_over()
        found.append(torch.rand(2, device=device))  # of the caller's stream
    return found


@pytest.mark.parametrize("hand_over", [pause, settle])
@pytest.mark.parametrize("device", DEVICES)
def test_random_streams_are_those_of_each_alone_and_the_caller_keeps_its_own(
    device: str, hand_over: Callable[[], None]
) -> None:
    alone = []
    for seed in range(3):
        torch.manual_seed(7)
        alone.append(draws(seed, device, lambda: None))
    torch.manual_seed(7)
    expected = torch.rand(3, device=device)
    torch.manual_seed(7)
    found = together([lambda seed=seed: draws(seed, device, hand_over) for seed in range(3)])  # type: ignore[misc]
    assert torch.equal(torch.rand(3, device=device), expected)
    for one, other in zip(alone, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_numbers_of_threads_are_those_of_each_alone() -> None:
    def call(count: int) -> list[int]:
        seen = [torch.get_num_threads()]
        with threads(count):
            for _ in range(3):
                pause()
                seen.append(torch.get_num_threads())
        pause()
        return [*seen, torch.get_num_threads()]

    before = torch.get_num_threads()
    found = together([lambda count=count: call(count) for count in (1, 2, 3)])  # type: ignore[misc]
    assert found == [[before, *[count] * 3, before] for count in (1, 2, 3)]
    assert torch.get_num_threads() == before


def test_trainings_in_turns_are_those_one_after_the_other_bit_for_bit() -> None:
    def call(dropout: float, encoder: bool) -> tuple[dict[str, Tensor], list[dict[str, object]]]:
        work, vectors = make_work(epochs=2)
        modules = make_modules(dropout, encoder)
        curve = train(work, vectors, modules).curve
        return weights(modules), curve

    kinds = [(0.0, False), (0.2, False), (0.5, True), (0.2, True), (0.5, False)]
    alone = [call(*kind) for kind in kinds]
    found = together([lambda kind=kind: call(*kind) for kind in kinds])  # type: ignore[misc]
    for (before, curve), (other, again) in zip(alone, found, strict=True):
        assert equal(before, other)
        assert curve == again


@pytest.mark.parametrize("device", DEVICES)
def test_steps_of_fixed_shapes_in_turns(device: str) -> None:
    """On a GPU each captures its own graphs, which go on drawing from its own random states."""

    def call(dropout: float) -> list[float]:
        work, vectors = make_work(epochs=3, clip=1.0)
        work = dataclasses.replace(work, device=torch.device(device), fixed=True)
        reader = StoredReader(FeatureTable(vectors.to(device), None, Report(0, len(vectors), 0.0)))
        state = train_phase(work, make_modules(dropout).to(device), reader, State("pretrain"), lambda state: None)
        return [point["loss"] for point in state.curve]

    rates = (0.0, 0.2, 0.5, 0.2)
    alone = [call(dropout) for dropout in rates]
    found = together([lambda dropout=dropout: call(dropout) for dropout in rates])  # type: ignore[misc]
    if device == "cpu":
        assert alone == found
    for one, other in zip(alone, found, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@on_cuda
def test_on_a_gpu_each_has_a_stream_that_follows_the_callers() -> None:
    given = torch.full((1 << 24,), 2.0, device="cuda").exp().log()

    def call(factor: float) -> tuple[int, Tensor]:
        total = torch.zeros((), device="cuda")
        for _ in range(5):
            total += (given * factor).mean()
            settle()
        return torch.cuda.current_stream().cuda_stream, total

    found = together([lambda factor=factor: call(factor) for factor in (1.0, 2.0, 3.0)])  # type: ignore[misc]
    assert len({stream for stream, _ in found} | {torch.cuda.current_stream().cuda_stream}) == 4
    assert [float(total) for _, total in found] == pytest.approx([10.0, 20.0, 30.0], rel=1e-3)


def test_training_hands_over_in_the_middle_of_an_epoch() -> None:
    seen = []

    def other() -> None:
        for _ in range(20):
            seen.append(len(done))
            pause()

    done: list[int] = []
    work, vectors = make_work(epochs=2)
    together([lambda: train(work, vectors, make_modules(), on_epoch=lambda state: done.append(state.epoch)), other])
    assert seen.count(0) > 3
    assert seen.count(1) > 3


def test_one_that_fails_ends_the_others_which_clean_up_and_is_raised() -> None:
    ended: list[str] = []
    begun: list[str] = []

    def fails() -> None:
        pause()
        raise ValueError("no such luck")

    def goes_on() -> None:
        begun.append("")
        try:
            while True:
                try:
                    pause()
                except Exception:  # noqa: BLE001 - as the one around a stranger's head
                    continue
        except Stopped:
            pause()  # once is enough
            ended.append("in a turn")
            raise

    def sleeps() -> None:
        try:
            sleep(0.05)
        finally:
            ended.append("asleep")

    with pytest.raises(ValueError, match="no such luck"):
        together([goes_on, fails, sleeps, goes_on])
    assert sorted(ended) == ["asleep", "in a turn", "in a turn"]
    assert len(begun) == 2


def test_who_had_no_turn_before_a_failure_does_not_begin() -> None:
    def fails() -> None:
        raise KeyError("first")

    begun: list[int] = []
    with pytest.raises(KeyError, match="first"):
        together([fails, lambda: begun.append(1)])
    assert not begun


def test_ctrl_c_ends_all_and_is_raised() -> None:
    ended: list[int] = []
    pressed: list[int] = []

    def goes_on(number: int) -> None:
        try:
            while True:
                time.sleep(0.001)
                pause()
                if number == 1 and not pressed:
                    pressed.append(1)
                    os.kill(os.getpid(), signal.SIGINT)
        finally:
            ended.append(number)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            together([lambda number=number: goes_on(number) for number in range(3)])  # type: ignore[misc]
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(ended) == [0, 1, 2]


def test_the_others_run_while_one_sleeps() -> None:
    awake, steps = threading.Event(), []

    def sleeps() -> None:
        began = own_time()
        sleep(0.05)
        awake.set()
        slept.append(own_time() - began)

    def works() -> None:
        while not awake.is_set():
            steps.append(1)
            time.sleep(0.001)
            pause()

    slept: list[float] = []
    together([sleeps, works])
    assert len(steps) > 3
    assert slept[0] < 0.05


def test_all_may_sleep() -> None:
    began = time.perf_counter()
    together([lambda: sleep(0.1)] * 8)
    assert time.perf_counter() - began < 0.5


def test_ones_own_time_leaves_out_the_others() -> None:
    def call(seconds: float) -> float:
        began = own_time()
        for _ in range(5):
            time.sleep(seconds)  # stands for work: the turn is kept
            pause()
        return own_time() - began

    short, long = together([lambda: call(0.001), lambda: call(0.02)])
    assert short < 0.05 < 0.1 <= long


def test_nobody_is_left_seated() -> None:
    together([pause, pause])
    assert turns._seat() is None
