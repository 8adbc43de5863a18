"""Features in memory and in the store: gathered, written, found again."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchkit.encoder import Encoder
from benchkit.store.features import FeatureSettings, FeatureStore, encode_table

POOLED, TOKENS = FeatureSettings(pooling="mean"), FeatureSettings(reads="tokens", pooling="mean")


def test_gather_pooled(benchmark: BenchmarkFixture, encoder: Encoder, texts: list[str]) -> None:
    table = encode_table(encoder, encoder.tokenize([(text,) for text in texts]), POOLED)
    benchmark(table.gather, torch.randint(len(table), (64, 2)))


def test_gather_tokens(benchmark: BenchmarkFixture, encoder: Encoder, texts: list[str], tmp_path: Path) -> None:
    """From disk, as a head in its first phase has them."""
    table = FeatureStore(tmp_path).table(encoder, [(text,) for text in texts], TOKENS)
    benchmark(table.gather, torch.randint(len(table), (64, 2)))


def test_store_writes(benchmark: BenchmarkFixture, encoder: Encoder, texts: list[str], tmp_path: Path) -> None:
    number = itertools.count()

    def fresh() -> None:
        FeatureStore(tmp_path / str(next(number))).table(encoder, [(text,) for text in texts], POOLED)

    benchmark(fresh)


def test_store_finds(benchmark: BenchmarkFixture, encoder: Encoder, texts: list[str], tmp_path: Path) -> None:
    """A new process finds all that it needs: the key, the segments verified, the table put together."""
    inputs = [(text,) for text in texts]
    FeatureStore(tmp_path).table(encoder, inputs, POOLED)
    benchmark(lambda: FeatureStore(tmp_path).table(encoder, inputs, POOLED))
