"""A round, one batch of every task, in each phase; of every head in the first, where the head is all there is."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchkit.core.plugins import load_plugins
from benchkit.speed.request import Mode, Point
from benchkit.speed.setup import Ground, Stage

HEADS = sorted(load_plugins().heads)


def measure(benchmark: BenchmarkFixture, ground: Ground, mode: Mode, head: str, batch: int) -> None:
    run = Stage.of(ground, Point(mode, batch, "mixed", "fp32")).make(head)
    benchmark(run, lambda part: None)


@pytest.mark.parametrize("head", HEADS)
def test_head(benchmark: BenchmarkFixture, ground: Ground, head: str) -> None:
    measure(benchmark, ground, "head", head, 64)


@pytest.mark.parametrize("head", ["baseline", "token-rnn"])
def test_finetune(benchmark: BenchmarkFixture, ground: Ground, head: str) -> None:
    measure(benchmark, ground, "train", head, 8)


@pytest.mark.parametrize("head", ["baseline", "token-rnn"])
def test_infer(benchmark: BenchmarkFixture, ground: Ground, head: str) -> None:
    measure(benchmark, ground, "infer", head, 64)
