"""How fast the parts are, by pytest-benchmark: `make bench`. Peers are in `encode.py`, which needs a real encoder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchkit.data import load_data
from benchkit.encoder import Encoder
from benchkit.features import Pooled
from benchkit.plugins import load_plugins
from benchkit.store.features import FeatureSettings
from benchkit.store.memory import encode_table
from benchkit.task import TaskShape

PLUGINS = load_plugins()
SHAPES = (TaskShape("one", 1, 5), TaskShape("pair", 2, 2), TaskShape("score", 2, 0, 0.0, 5.0))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.set_num_threads(1)
    return PLUGINS.encoders["demo"].load()


@pytest.fixture(scope="module")
def inputs() -> list[tuple[str, ...]]:
    splits = load_data("demo", [PLUGINS.task("quora")])["quora"]
    return [(text,) for texts in splits["train"].texts for text in texts]


def test_tokenize(benchmark: BenchmarkFixture, encoder: Encoder, inputs: list[tuple[str, ...]]) -> None:
    benchmark(encoder.tokenize, inputs)


def test_encode(benchmark: BenchmarkFixture, encoder: Encoder, inputs: list[tuple[str, ...]]) -> None:
    tokenized = encoder.tokenize(inputs)
    benchmark(encode_table, encoder, tokenized, FeatureSettings(pooling="mean"))


def test_gather(benchmark: BenchmarkFixture, encoder: Encoder, inputs: list[tuple[str, ...]]) -> None:
    table = encode_table(encoder, encoder.tokenize(inputs), FeatureSettings(pooling="mean"))
    rows = torch.randint(len(table), (64, 2))
    benchmark(table.gather, rows)


def steps(name: str) -> Iterator[Tensor]:
    """One optimiser step of a head at hidden 768, batch 64, the three kinds of task in turn, at each `next`."""
    spec = PLUGINS.head(name)
    head = spec.build(spec.configure({}), 768, SHAPES)
    optimizer = torch.optim.AdamW(head.parameters(), fused=True)
    for shape in cycle(SHAPES):
        loss = head(Pooled(torch.randn(64, shape.segments, 768)), shape.name).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss


@pytest.mark.parametrize("name", sorted(PLUGINS.heads))
def test_head_step(benchmark: BenchmarkFixture, name: str) -> None:
    torch.set_num_threads(1)
    benchmark(next, steps(name))


def test_help(benchmark: BenchmarkFixture) -> None:
    command = [sys.executable, "-m", "benchkit", "--help"]
    benchmark(lambda: subprocess.run(command, capture_output=True, check=True))
