"""Making and storing encoders."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from benchkit.encoder.checkpoint import read_model, write_model
from benchkit.encoder.config import BertConfig
from benchkit.encoder.encoder import Encoder
from benchkit.encoder.model import MiniBert
from benchkit.encoder.tokenizer import load_tokenizer, wordpiece
from benchkit.errors import UserError
from benchkit.rng import generator


def load_encoder(folder: Path | str) -> Encoder:
    """An encoder from a folder in Hugging Face's layout; its name is the folder's.

    The folder holds `config.json`, `model.safetensors` or `pytorch_model.bin`, and `tokenizer.json` or `vocab.txt`
    (with `tokenizer_config.json` where casing is not the default).

    Raises:
        UserError: see `read_model` and `load_tokenizer`.
    """
    folder = Path(folder)
    model = read_model(folder)
    notes = () if model.pooler else ("the checkpoint has no pooler weights, so there is no pooling 'pooler'",)
    return Encoder(folder.absolute().name, model, load_tokenizer(folder, model.config.vocab_size), notes)


def save_encoder(encoder: Encoder, folder: Path | str) -> None:
    """Write a folder that `load_encoder` and transformers read: config, float32 weights and `tokenizer.json`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_model(encoder.model, folder)
    tokenizer = encoder.tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))


def random_encoder(name: str, vocab: Sequence[str], config: BertConfig, seed: int) -> Encoder:
    """An untrained encoder: BERT's initial weights from the seed, and a lower-casing WordPiece tokenizer.

    Matrices and embeddings are normal with standard deviation `initializer_range`, biases zero (Devlin et al. 2018).

    Raises:
        UserError: `vocab` lacks a special piece, has one twice, or is not of `config.vocab_size` pieces.
    """
    if len(vocab) != config.vocab_size:
        raise UserError(f"encoder {name!r}: {len(vocab)} word pieces, but vocab_size {config.vocab_size}")
    tokenizer = wordpiece(vocab, f"encoder {name!r}")
    model = MiniBert(config)
    _initialise(model, seed)
    return Encoder(name, model.eval(), tokenizer)


def untrained(encoder: Encoder, seed: int = 0) -> Encoder:
    """An encoder of the same architecture and tokenizer with BERT's initial weights instead of its own."""
    model = copy.deepcopy(encoder.model)
    _initialise(model, seed)
    return Encoder(f"random:{encoder.name}", model.eval(), encoder.tokenizer, encoder.notes)


def _initialise(model: MiniBert, seed: int) -> None:
    for path, parameter in model.named_parameters():
        with torch.no_grad():
            if "norm" in path:
                parameter.fill_(1.0 if path.endswith("weight") else 0.0)
            elif path.endswith("bias"):
                parameter.zero_()
            else:
                scale = model.config.initializer_range
                parameter.normal_(0.0, scale, generator=generator(seed, "encoder", path))
