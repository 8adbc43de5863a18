"""Our BERT against transformers': the same ids, the same hidden states, the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchkit.core.features import Pooled, Tokens
from benchkit.encoder import BertConfig, Encoder, load_encoder, random_encoder, save_encoder

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
REAL = ("all-MiniLM-L6-v2", "paraphrase-MiniLM-L3-v2")
TEXTS = [
    "",
    "Hello world",
    "hello, WORLD! It's naïve café — 你好 مرحبا \u200b\u00ad 🙂 ﬁ",
    "[CLS] [SEP] [MASK] literally",
    "\t\n tabs\rand\u2028lines \x00 \ufffd",
    "pneumonoultramicroscopicsilicovolcanoconiosis " * 5,
    "x" * 150,
    "word " * 700,
    "a",
    "Two words",
]
PAIRS = [("Who is it?", "It is I."), ("", "empty first"), ("long " * 400, "other " * 300), ("a", "")]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij"), "hello"]


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float(((ours - theirs).abs().max() / theirs.abs().max()).detach())


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.real) for name in REAL])
def real(request: pytest.FixtureRequest, weights: Callable[[str], Path]) -> tuple[Encoder, Any, Any]:
    folder = weights(request.param)
    model = transformers.BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    return load_encoder(folder), model, transformers.BertTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Any, Any]:
    return beside_transformers(tmp_path_factory.mktemp("small"), hidden_size=48, num_attention_heads=4)


def beside_transformers(folder: Path, **sizes: int) -> tuple[Encoder, Any, Any]:
    """transformers' model with random weights, saved by it and read by us."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 3, "intermediate_size": 96, "max_position_embeddings": 64} | sizes
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(VOCAB), **shape)).eval()
    for parameter in model.parameters():  # biases and norms too
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return load_encoder(folder), model, transformers.BertTokenizerFast(str(folder / "vocab.txt"))


def inputs_for(encoder: Encoder) -> list[tuple[str, ...]]:
    return [*((text,) for text in TEXTS), *PAIRS]


def by_transformers(tokenizer: Any, texts: tuple[str, ...], limit: int) -> Any:
    # As lists: a bare second text that is empty would be taken for none.
    return tokenizer(*([text] for text in texts), truncation=True, max_length=limit)


def compare_hidden_states(encoder: Encoder, model: Any, inputs: list[tuple[str, ...]]) -> None:
    """All of them, ours packed, theirs in one padded batch."""
    tokenized = encoder.tokenize(inputs, 64)
    length = int(tokenized.lengths.max())
    ids, segments = torch.zeros(2, len(inputs), length, dtype=torch.long).unbind()
    mask = torch.arange(length) < tokenized.lengths[:, None]
    ids[mask], segments[mask] = tokenized.ids.long(), tokenized.segments.long()
    layers = tuple(range(encoder.config.num_hidden_layers + 1))
    with torch.no_grad():
        theirs = model(
            input_ids=ids, token_type_ids=segments, attention_mask=mask.long(), output_hidden_states=True
        ).hidden_states
        rows = torch.arange(len(inputs))[:, None]
        ours = encoder.features(tokenized, rows, reads=Tokens, pooling="cls", layers=layers)
    assert isinstance(ours, Tokens)
    assert torch.equal(ours.mask[:, 0], mask)
    for layer, (our, their) in enumerate(zip(ours.tokens[:, 0].chunk(len(layers), -1), theirs, strict=True)):
        assert relative(our[mask], their[mask]) <= TOLERANCE, f"layer {layer}"
        assert not our[~mask].any()


@pytest.mark.real
def test_real_ids(real: tuple[Encoder, Any, Any]) -> None:
    encoder, _, tokenizer = real
    for limit in (8, 64, 512):
        tokenized = encoder.tokenize(inputs_for(encoder), limit)
        for row, texts in enumerate(inputs_for(encoder)):
            theirs = by_transformers(tokenizer, texts, limit)
            here = slice(*tokenized.offsets[row : row + 2].tolist())
            assert tokenized.ids[here].tolist() == theirs["input_ids"][0], texts
            assert tokenized.segments[here].tolist() == theirs["token_type_ids"][0], texts


@pytest.mark.real
def test_real_hidden_states(real: tuple[Encoder, Any, Any]) -> None:
    compare_hidden_states(real[0], real[1], inputs_for(real[0]))


@pytest.mark.real
def test_real_pooler(real: tuple[Encoder, Any, Any]) -> None:
    encoder, model, tokenizer = real
    if encoder.model.pooler is None:
        assert "pooler" in encoder.notes[0]
        return
    with torch.no_grad():
        theirs = model(**tokenizer(TEXTS[:3], padding=True, return_tensors="pt")).pooler_output
    assert relative(encoder.encode(TEXTS[:3], pooling="pooler", precision="fp32"), theirs) <= TOLERANCE


def test_ids_from_a_vocabulary(small: tuple[Encoder, Any, Any]) -> None:
    encoder, _, tokenizer = small
    inputs = [("abc hello",), ("HELLO Äb zz",), ("",), ("a b c d e f g h",), ("abc", "hello d")]
    tokenized = encoder.tokenize(inputs, 8)
    for row, texts in enumerate(inputs):
        theirs = by_transformers(tokenizer, texts, 8)
        here = slice(*tokenized.offsets[row : row + 2].tolist())
        assert tokenized.ids[here].tolist() == theirs["input_ids"][0], texts
        assert tokenized.segments[here].tolist() == theirs["token_type_ids"][0], texts
    assert tokenized.truncated == 1


def test_hidden_states(small: tuple[Encoder, Any, Any]) -> None:
    compare_hidden_states(small[0], small[1], [("abc hello",), ("a",), ("",), ("hello " * 90,), ("a b", "hello c")])


@pytest.mark.slow
def test_hidden_states_of_bert_base(tmp_path: Path) -> None:
    encoder, model, _ = beside_transformers(
        tmp_path, hidden_size=768, num_attention_heads=12, num_hidden_layers=12, intermediate_size=3072
    )
    compare_hidden_states(encoder, model, [("abc hello",), ("a",), ("hello d", "a b c")])


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "pooler"])
def test_gradients(small: tuple[Encoder, Any, Any], pooling: str) -> None:
    encoder, model, tokenizer = small
    texts = ["abc hello", "a", "hello b c", "d"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    target = torch.linspace(-1, 1, len(texts) * encoder.hidden).view(len(texts), -1)
    output, mask = model(**batch), batch["attention_mask"][..., None]
    states = output.last_hidden_state
    theirs = {
        "mean": lambda: (states * mask).sum(1) / mask.sum(1),
        "cls": lambda: states[:, 0],
        "max": lambda: states.masked_fill(mask == 0, -1e9).amax(1),
        "pooler": lambda: output.pooler_output,
    }[pooling]()
    tokenized = encoder.tokenize([(text,) for text in texts])
    ours = encoder.features(tokenized, torch.arange(len(texts))[:, None], Pooled, pooling).pooled[:, 0]
    assert relative(ours, theirs) <= TOLERANCE
    model.zero_grad()
    encoder.model.zero_grad()
    torch.autograd.backward([(theirs * target).sum(), (ours * target).sum()])
    layer = model.encoder.layer[1]
    qkv = torch.cat([getattr(layer.attention.self, part).weight.grad for part in ("query", "key", "value")])
    assert relative(grad(encoder.model.get_parameter("layers.1.qkv.weight")), qkv) <= 1e-4
    words = model.embeddings.word_embeddings.weight.grad
    assert relative(grad(encoder.model.word.weight), words) <= 1e-4


def grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_saved_encoders_are_read_by_transformers(tmp_path: Path, activation: str) -> None:
    config = BertConfig(len(VOCAB), 32, 2, 2, 64, 32, hidden_act=activation)
    encoder = random_encoder("r", VOCAB, config, seed=1)
    save_encoder(encoder, tmp_path)
    model = transformers.BertModel.from_pretrained(tmp_path).eval()
    compare_hidden_states(encoder, model, [("abc hello",), ("a", "b")])
    assert load_encoder(tmp_path).fingerprint == encoder.fingerprint
