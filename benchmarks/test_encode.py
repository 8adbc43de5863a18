"""From strings to features. Opponents are in `peers.py`, which needs a real encoder."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchkit.encoder import Encoder
from benchkit.store.features import FeatureSettings, encode_table


def test_tokenize(benchmark: BenchmarkFixture, encoder: Encoder, texts: list[str]) -> None:
    benchmark(encoder.tokenize, [(text,) for text in texts])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_encode(benchmark: BenchmarkFixture, encoder: Encoder, texts: list[str], pooling: str) -> None:
    tokenized = encoder.tokenize([(text,) for text in texts])
    benchmark(encode_table, encoder, tokenized, FeatureSettings(pooling=pooling))


def test_encode_tokens(benchmark: BenchmarkFixture, encoder: Encoder, texts: list[str]) -> None:
    tokenized = encoder.tokenize([(text,) for text in texts])
    benchmark(encode_table, encoder, tokenized, FeatureSettings(reads="tokens", pooling="mean"))
