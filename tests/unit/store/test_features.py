"""Each input is encoded once, and a row is its input encoded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import torch
from helpers.stores import CONFIG, POOLED, TOKENS, VOCAB, Store, direct, encoder, pooled_one_by_one, sentences

from benchkit.core.features import Pooled, Tokens
from benchkit.core.source import numeric_versions
from benchkit.encoder import random_encoder
from benchkit.store.features import FeatureSettings
from benchkit.store.table import MappedTokens, ResidentTokens, digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_row_is_its_input_encoded(store: Store) -> None:
    inputs = [*sentences(20), ("the cat", "a dog"), sentences(1)[0]]
    table = store.table(encoder(), inputs, POOLED)
    assert (len(table), table.width) == (22, 16)
    assert (table.report.reused, table.report.encoded) == (0, 21)
    assert len(store.segments()) == 3
    torch.testing.assert_close(table.pooled, pooled_one_by_one(inputs, POOLED))
    features = table.gather(torch.tensor([[3, 21], [20, 0]]))
    assert type(features) is Pooled
    assert torch.equal(features.pooled, table.pooled[torch.tensor([[3, 21], [20, 0]])])
    assert store.lines == []


def test_stored_inputs_are_not_encoded_again(store: Store) -> None:
    first = store.table(encoder(), sentences(20), POOLED)
    calls: list[tuple[int, int]] = []
    second = store.table(
        encoder(), sentences(30)[::-1], POOLED, progress=lambda done, total: calls.append((done, total))
    )
    assert (second.report.reused, second.report.encoded) == (20, 10)
    assert calls[-1] == (10, 10)
    assert torch.equal(second.pooled.flip(0)[:20], first.pooled)
    before = store.segments()
    again = Store(store.root).table(
        encoder(), sentences(30), POOLED, progress=lambda done, total: pytest.fail("encoded")
    )
    assert again.report.encoded == 0
    assert torch.equal(again.pooled, second.pooled.flip(0))
    assert store.segments() == before


def test_nothing_is_written_to_count_what_is_missing(store: Store) -> None:
    assert store.missing(encoder(), [*sentences(9), *sentences(3)], POOLED) == 9
    assert list(store.root.iterdir()) == []
    store.table(encoder(), sentences(5), POOLED)
    assert store.missing(encoder(), sentences(9), POOLED) == 4
    assert store.missing(encoder(), sentences(5), POOLED) == 0


def test_no_inputs(store: Store) -> None:
    table = store.table(encoder(), [], dataclasses.replace(POOLED, layers=(0, -1)))
    assert table.pooled.shape == (0, 32)


def test_inputs_are_told_apart() -> None:
    inputs = [("a", "b"), ("ab",), ("a\0b",), ("a", ""), ("", "a"), ("a",), ("",), ("1,1\0a", "b"), ("\ud800",)]
    assert len({digest(each) for each in inputs}) == len(inputs)


@pytest.mark.parametrize(
    "other",
    [
        FeatureSettings(reads="tokens"),
        FeatureSettings(pooling="mean"),
        FeatureSettings(layers=(-2,)),
        FeatureSettings(layers=(-1, -2)),
        FeatureSettings(max_length=5),
        FeatureSettings(precision="bf16"),
        FeatureSettings(device="cuda"),
    ],
)
def test_each_setting_is_part_of_the_key(store: Store, other: FeatureSettings) -> None:
    assert store.key(encoder(), POOLED) == store.key(encoder(), FeatureSettings())
    assert store.key(encoder(), other) != store.key(encoder(), POOLED)


def test_the_encoder_and_its_source_are_part_of_the_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {store.key(encoder(), POOLED), store.key(encoder(seed=1), POOLED)}
    changed = encoder()
    with torch.no_grad():
        next(changed.model.parameters()).view(-1)[0] += 1e-3
    rebuilt = random_encoder("tiny", [*VOCAB[:-1], "house"], CONFIG, 0)
    wide = encoder(config=dataclasses.replace(CONFIG, layer_norm_eps=1e-5))
    keys |= {store.key(each, POOLED) for each in (rebuilt, wide)}
    monkeypatch.setattr("benchkit.store.features.encoder_source", lambda: "another version")
    keys.add(store.key(encoder(), POOLED))
    assert len(keys) == 5


@pytest.mark.parametrize("package", ["torch", "tokenizers", "numerics"])
def test_versions_are_part_of_the_key(store: Store, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Another release of torch or tokenizers may give other features: they are not served under the old key."""
    before = store.key(encoder(), POOLED)
    assert package in numeric_versions()
    others = {**numeric_versions(), package: "another"}
    monkeypatch.setattr("benchkit.store.features.numeric_versions", lambda: others)
    assert store.key(encoder(), POOLED) != before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_are_those_of_each_sentence(store: Store, precision: Literal["fp32", "bf16"]) -> None:
    settings = dataclasses.replace(TOKENS, precision=precision)
    inputs = sentences(30)
    store.table(encoder(), inputs[:20:3], settings)
    table = store.table(encoder(), inputs, settings)
    assert len(store.segments(settings)) > 3
    rows = torch.tensor([[0, 29], [7, 7], [12, 3]])
    features = table.gather(rows)
    assert isinstance(features, Tokens)
    assert features.tokens.shape[:2] == features.mask.shape[:2] == rows.shape
    assert features.tokens.dtype is torch.float32
    assert not features.tokens[~features.mask].any()
    tolerance = 2e-2 if precision == "bf16" else 1e-5
    longest = 0
    for row, tokens, mask, pooled in zip(
        rows.flatten().tolist(),
        features.tokens.flatten(0, 1),
        features.mask.flatten(0, 1),
        features.pooled.flatten(0, 1),
        strict=True,
    ):
        ((expected_pooled, expected),) = direct([inputs[row]], settings)
        assert expected is not None
        length = int(mask.sum())
        longest = max(longest, length)
        assert mask[:length].all()
        torch.testing.assert_close(tokens[:length], expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(pooled, expected_pooled[0], rtol=tolerance, atol=tolerance)
    assert features.mask.shape[2] == longest


def test_long_inputs_make_smaller_segments(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment is what the encoder computed together, or a rerun after a kill would compute other bits."""
    monkeypatch.setattr("benchkit.store.features.CHUNK_TOKENS", 100)
    monkeypatch.setattr("benchkit.encoder.encoder.CHUNK_TOKENS", 100)
    inputs = sentences(40)
    table = store.table(encoder(), inputs, TOKENS)
    assert len(store.segments(TOKENS)) > 5
    lost = store.segments(TOKENS)[2]
    lost.unlink()
    assert torch.equal(store.table(encoder(), inputs, TOKENS).pooled, table.pooled)
    assert lost.exists()


def test_tokens_in_memory_are_the_tokens_on_disk(store: Store) -> None:
    table = store.table(encoder(), [*sentences(30), *sentences(4)], TOKENS)
    assert isinstance(table.tokens, MappedTokens)
    resident = dataclasses.replace(table, tokens=table.tokens.resident(torch.device("cpu")))
    assert isinstance(resident.tokens, ResidentTokens)
    assert resident.tokens.tokens.nbytes == table.tokens.nbytes
    for rows in (torch.arange(34).view(17, 2), torch.tensor([[5]]), torch.tensor([[33, 0], [2, 2]])):
        one, other = table.gather(rows), resident.gather(rows)
        assert isinstance(one, Tokens)
        assert isinstance(other, Tokens)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.mask, other.mask)


def test_tokens_stay_on_disk(store: Store) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps")
    table = store.table(encoder(), sentences(9), TOKENS)
    assert isinstance(table.tokens, MappedTokens)
    for part in table.tokens.parts:
        (home,) = [line for line in maps.read_text().splitlines() if _holds(line, part.data_ptr())]
        assert ".safetensors" in home


def _holds(line: str, address: int) -> bool:
    low, high = (int(end, 16) for end in line.split()[0].split("-"))
    return low <= address < high
