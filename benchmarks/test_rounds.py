"""A round, one batch of every task, in each phase; of every head in the first, where the head is all there is."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchkit.core.plugins import load_plugins
from benchkit.inspect.heads import Setup
from benchkit.speed.setup import BenchmarkPoint, Mode, PreparedBenchmark

HEADS = sorted(load_plugins().heads)


def measure(benchmark: BenchmarkFixture, setup: Setup, mode: Mode, head: str, batch: int) -> None:
    run = PreparedBenchmark.of(setup, BenchmarkPoint(mode, batch, "mixed", "fp32")).make(head)
    benchmark(run, lambda part: None)


@pytest.mark.parametrize("head", HEADS)
def test_head(benchmark: BenchmarkFixture, setup: Setup, head: str) -> None:
    measure(benchmark, setup, "head", head, 64)


@pytest.mark.parametrize("head", ["baseline", "token-rnn"])
def test_finetune(benchmark: BenchmarkFixture, setup: Setup, head: str) -> None:
    measure(benchmark, setup, "train", head, 8)


@pytest.mark.parametrize("head", ["baseline", "token-rnn"])
def test_infer(benchmark: BenchmarkFixture, setup: Setup, head: str) -> None:
    measure(benchmark, setup, "infer", head, 64)
