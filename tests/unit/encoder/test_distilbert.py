"""DistilBERT against transformers': the same hidden states from random weights; others are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import VOCAB

from benchkit.core.errors import UserError
from benchkit.encoder import Encoder, load_encoder, save_encoder

transformers = pytest.importorskip("transformers")

INPUTS = [("a b c",), ("d",), ("e f", "g h a"), ("h a a a b c d e f g",)]


@pytest.fixture(scope="module", params=["gelu", "relu"])
def distil(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Encoder, Any, Path]:
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=len(VOCAB), dim=48, n_layers=3, n_heads=4, hidden_dim=96, max_position_embeddings=32,
        activation=request.param,
    )  # fmt: skip
    model = transformers.DistilBertModel(config).eval()
    for parameter in model.parameters():  # biases and norms too
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    folder = tmp_path_factory.mktemp("distil")
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return load_encoder(folder), model, folder


def test_hidden_states_are_transformers(distil: tuple[Encoder, Any, Path]) -> None:
    encoder, model, _ = distil
    tokenized = encoder.tokenize(INPUTS)
    length = int(tokenized.lengths.max())
    ids = torch.zeros(len(INPUTS), length, dtype=torch.long)
    mask = torch.arange(length) < tokenized.lengths[:, None]
    ids[mask] = tokenized.ids.long()
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
        layers = tuple(range(len(theirs)))
        for pooling in ("cls", "mean"):
            rows = torch.arange(len(INPUTS))[:, None]
            ours = encoder.features(tokenized, rows, pooling=pooling, layers=layers).pooled.squeeze(1)
            expected = torch.cat([_pool(hidden, mask, pooling) for hidden in theirs], dim=-1)
            assert float((ours - expected).abs().max() / expected.abs().max()) <= 1e-5


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "cls":
        return hidden[:, 0]
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def test_saved_as_a_bert_it_is_the_same_to_transformers(distil: tuple[Encoder, Any, Path], tmp_path: Path) -> None:
    encoder, model, _ = distil
    save_encoder(encoder, tmp_path)
    assert load_encoder(tmp_path).fingerprint == encoder.fingerprint
    bert = transformers.BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    ids = torch.tensor([[2, 5, 6, 7, 3]])
    with torch.no_grad():
        ours, theirs = (each(input_ids=ids).last_hidden_state for each in (bert, model))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("mpnet", " (its attention has a relative position bias)"),
        ("roberta", " (its word pieces and positions are counted in another way)"),
        ("gpt2", ""),
    ],
)
def test_others_are_refused_by_name(distil: tuple[Encoder, Any, Path], tmp_path: Path, kind: str, why: str) -> None:
    save_encoder(distil[0], tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))
    with pytest.raises(UserError) as error:
        load_encoder(tmp_path)
    assert str(error.value) == f"{path}: model_type is {kind!r}{why}; only 'bert' and 'distilbert' can be loaded"
