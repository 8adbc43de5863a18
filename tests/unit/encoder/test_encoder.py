"""The encoder by itself: packing, pooling, streaming, fingerprints."""

from __future__ import annotations

import copy
import dataclasses
import random
from pathlib import Path

import pytest
import torch

from benchkit.core.errors import UserError
from benchkit.core.features import Pooled, Tokens
from benchkit.encoder import BertConfig, Encoder, load_encoder, random_encoder, resolve_precision, save_encoder
from benchkit.encoder.packing import compute, gather

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
CONFIG = BertConfig(len(VOCAB), 32, 3, 4, 64, 64)
TEXTS = ["a b c", "d", "", "e f g h i j a b", "a b d", "j i", "d"]


@pytest.fixture
def encoder() -> Encoder:
    return random_encoder("tiny", VOCAB, CONFIG, seed=0)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "pooler"])
def test_packed_equals_one_at_a_time(encoder: Encoder, pooling: str) -> None:
    together = encoder.encode(TEXTS, pooling, precision="fp32")
    alone = torch.cat([encoder.encode([text], pooling, precision="fp32") for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_padded_attention_equals_groups(encoder: Encoder, seed: int, tokens: bool, pooling: str) -> None:
    draw = random.Random(seed)
    words = draw.choices(range(13), k=draw.randint(1, 12))  # empty sentences and repeated lengths among them
    tokenized = encoder.tokenize([(" ".join("abcdefghijab"[:count]),) for count in words])
    rows, cpu = torch.arange(len(words)), torch.device("cpu")
    with torch.no_grad():
        both = [
            compute(encoder.model, gather(tokenized, rows, cpu, padded), pooling, (1, 3), tokens)
            for padded in (False, True)
        ]
    (pooled, pieces), (padded_pooled, padded_pieces) = both
    assert torch.allclose(pooled, padded_pooled, atol=1e-6)
    assert (pieces is None) == (padded_pieces is None) == (not tokens)
    if pieces is not None and padded_pieces is not None:
        assert torch.allclose(pieces, padded_pieces, atol=1e-6)


@pytest.mark.parametrize("layers", [(-1,), (0,), (0, -1), (2, 1)])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_layers_and_tokens_agree(encoder: Encoder, layers: tuple[int, ...], pooling: str) -> None:
    tokenized = encoder.tokenize([(text,) for text in TEXTS])
    rows = torch.arange(6).view(3, 2)
    both = encoder.features(tokenized, rows, Tokens, pooling, layers)
    alone = encoder.features(tokenized, rows, Pooled, pooling, layers)
    assert isinstance(both, Tokens)
    assert not isinstance(alone, Tokens)
    assert alone.pooled.shape == (3, 2, 32 * len(layers))
    assert torch.allclose(both.pooled, alone.pooled, atol=1e-6)
    counts = both.mask.sum(-1, keepdim=True)
    by_hand = both.tokens.sum(2) / counts if pooling == "mean" else both.tokens[:, :, 0]
    assert torch.allclose(by_hand, alone.pooled, atol=1e-6)
    assert torch.equal(counts.flatten(), tokenized.lengths[:6])


def test_chunks_hold_each_row_once_and_equal_live_features(encoder: Encoder) -> None:
    tokenized = encoder.tokenize([(text,) for text in TEXTS * 5])
    live = encoder.features(tokenized, torch.arange(35)[:, None]).pooled[:, 0].detach()
    seen = []
    for chunk in encoder.encode_chunks([tokenized], reads=Tokens, precision="fp32", chunk=8):
        assert len(chunk.rows) <= 8
        assert torch.equal(chunk.lengths, tokenized.lengths[chunk.rows])
        assert chunk.tokens is not None
        assert torch.allclose(chunk.pooled, live[chunk.rows], atol=1e-6)
        means = torch.stack([piece.mean(0) for piece in torch.split(chunk.tokens, chunk.lengths.tolist())])
        assert torch.allclose(means, chunk.pooled, atol=1e-6)
        seen += chunk.rows.tolist()
    assert sorted(seen) == list(range(35))


def test_threads_do_not_change_numbers_and_are_restored(encoder: Encoder) -> None:
    texts = [" ".join("abcdefghij"[i % 7 : 3 + i % 8]) + " a" * (i % 40) for i in range(300)]
    one = encoder.encode(texts, precision="fp32")
    torch.set_num_threads(2)
    try:
        two = encoder.encode(texts, precision="fp32")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)


def test_encoded_vectors_can_be_trained_on(encoder: Encoder) -> None:
    vectors = encoder.encode(["a", "b"])
    torch.autograd.backward(torch.nn.Linear(32, 1)(vectors).sum())
    assert vectors.dtype == torch.float32
    assert not vectors.is_inference()


def test_dropout_is_off_in_eval_and_on_in_train(encoder: Encoder) -> None:
    tokenized = encoder.tokenize([("a b c",)])
    rows = torch.zeros(1, 1, dtype=torch.long)

    def features() -> torch.Tensor:
        return encoder.features(tokenized, rows).pooled.detach()

    assert torch.equal(features(), features())
    encoder.train()
    assert not torch.equal(features(), features())
    assert torch.equal(encoder.encode(["a b c"]), encoder.encode(["a b c"]))  # frozen means eval
    assert encoder.model.training
    encoder.eval()
    assert torch.equal(features(), features())


def test_bf16_is_close(encoder: Encoder) -> None:
    exact, rough = (encoder.encode(TEXTS, precision=precision) for precision in ("fp32", "bf16"))
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.cosine_similarity(exact, rough).min() > 0.999
    assert encoder.model.word.weight.dtype == torch.float32


def test_empty_and_repeated_texts(encoder: Encoder) -> None:
    assert encoder.encode([], layers=(0, -1)).shape == (0, 64)
    vectors = encoder.encode(["a", "b", "a"])
    assert torch.equal(vectors[0], vectors[2])
    assert list(encoder.encode_chunks([encoder.tokenize([])])) == []


def test_fingerprint_changes_with_everything_and_not_with_the_path(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "one")
    save_encoder(encoder, tmp_path / "two")
    prints = [encoder.fingerprint, load_encoder(tmp_path / "one").fingerprint]
    assert prints == [load_encoder(tmp_path / "two").fingerprint, copy.deepcopy(encoder).fingerprint]
    other_words = [*VOCAB[:-1], "##z"]
    other_config = dataclasses.replace(CONFIG, layer_norm_eps=1e-6)
    others = {
        random_encoder("tiny", other_words, CONFIG, seed=0).fingerprint,
        random_encoder("tiny", VOCAB, CONFIG, seed=1).fingerprint,
        random_encoder("tiny", VOCAB, other_config, seed=0).fingerprint,
    }
    (tmp_path / "two" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    others.add(load_encoder(tmp_path / "two").fingerprint)
    assert len(others | {encoder.fingerprint}) == 5


@pytest.mark.parametrize(("foreach", "fused"), [(False, True), (True, False), (False, False)])
def test_fingerprint_follows_training(encoder: Encoder, foreach: bool, fused: bool) -> None:
    before = encoder.fingerprint
    assert encoder.fingerprint == before
    optimiser = torch.optim.AdamW(encoder.model.parameters(), lr=1e-3, foreach=foreach, fused=fused)
    tokenized = encoder.tokenize([("a b",)])
    torch.autograd.backward(encoder.features(tokenized, torch.zeros(1, 1, dtype=torch.long)).pooled.sum())
    optimiser.step()
    assert encoder.fingerprint != before


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda e: e.encode("one text"), "a list of texts"),
        (lambda e: e.encode(["a", 3]), "input 1"),
        (lambda e: e.encode(["a"], pooling="sum"), "cls, mean, max, pooler"),
        (lambda e: e.encode(["a"], layers=(4,)), "layer 4"),
        (lambda e: e.encode(["a"], layers=(-5,)), "layer -5"),
        (lambda e: e.encode(["a"], layers=()), "layers is empty"),
        (lambda e: e.encode(["a"], pooling="pooler", layers=(1,)), "last layer only"),
        (lambda e: e.encode(["a"], precision="int8"), "auto, fp32, bf16"),
        (lambda e: e.encode(["a"], max_length=2), "max_length is 2"),
        (lambda e: e.tokenize(["a"]), "tuple of one or two texts"),
        (lambda e: e.tokenize([("a", "b", "c")]), "tuple of one or two texts"),
    ],
)
def test_mistakes_are_one_line(encoder: Encoder, mistake: object, says: str) -> None:
    assert callable(mistake)
    with pytest.raises(UserError, match=says) as caught:
        mistake(encoder)
    assert "\n" not in str(caught.value)


def test_long_inputs_are_cut_to_the_positions_and_counted(encoder: Encoder) -> None:
    tokenized = encoder.tokenize([("a " * 100,), ("a " * 62,), ("a",)])
    assert tokenized.lengths.tolist() == [64, 64, 3]
    assert tokenized.truncated == 1


def test_precision_by_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_precision("bf16", "cpu") == "bf16"
    for native in (True, False):
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda native=native: native, raising=False)
        assert resolve_precision("auto", "cpu") == ("bf16" if native else "fp32")
