"""Masked language models as folders in Hugging Face's layout, which `transformers.BertForMaskedLM` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from benchkit.encoder.checkpoint import WEIGHTS, names, read_tensors
from benchkit.errors import UserError
from benchkit.mlm.model import MaskedLm
from benchkit.store.atomic import write_atomic

_HEAD = {
    "dense.weight": "cls.predictions.transform.dense.weight",
    "dense.bias": "cls.predictions.transform.dense.bias",
    "norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "bias": "cls.predictions.bias",
}


def read_head(model: MaskedLm, folder: Path) -> bool:
    """Take the head's weights from a checkpoint's folder; False, and nothing is changed, where it has none.

    Raises:
        UserError: it has a head of another shape.
    """
    path = next((p for name in WEIGHTS if (p := folder / name).is_file()), None)
    tensors = read_tensors(path) if path else {}
    if any(theirs not in tensors for theirs in _HEAD.values()):
        return False
    with torch.no_grad():
        for ours, theirs in _HEAD.items():
            parameter = model.get_parameter(ours)
            if tensors[theirs].shape != parameter.shape:
                found, wanted = tuple(tensors[theirs].shape), tuple(parameter.shape)
                raise UserError(f"{path}: {theirs!r} is {found}, but config.json makes it {wanted}")
            parameter.copy_(tensors[theirs])
    return True


def write_folder(folder: Path, model: MaskedLm, tokenizer: Tokenizer, half: bool) -> None:
    """Config, weights and tokenizer, each file whole or not there, the weights last.

    Args:
        half: store the weights as fp16.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {name: value.to(dtype).contiguous() for name, value in _tensors(model)}
    for name, content in (
        ("config.json", _json(_config(model, tokenizer, dtype))),
        ("tokenizer_config.json", _json(_tokenizer_config(model, tokenizer))),
        ("tokenizer.json", tokenizer.to_str(pretty=True).encode() + b"\n"),
        ("vocab.txt", _vocab(tokenizer)),
        ("model.safetensors", save(tensors, metadata={"format": "pt"})),
    ):
        write_atomic(folder / name, content, durable=False)


def _tensors(model: MaskedLm) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs in names(model.bert.config, pooler=False):
        value = model.bert.get_parameter(ours).detach().cpu()
        for name, part in zip(theirs, value.chunk(len(theirs)), strict=True):
            yield f"bert.{name}", part.clone()
    for ours, name in _HEAD.items():
        yield name, model.get_parameter(ours).detach().cpu()


def _config(model: MaskedLm, tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "dtype": str(dtype).removeprefix("torch."),
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
        "tie_word_embeddings": True,
        **asdict(model.bert.config),
    }


def _tokenizer_config(model: MaskedLm, tokenizer: Tokenizer) -> dict[str, Any]:
    """What transformers, and ours, ask of `vocab.txt`'s user: the same as `tokenizer.json` says."""
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    return {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
        "model_max_length": model.bert.config.max_position_embeddings,
    }


def _vocab(tokenizer: Tokenizer) -> bytes:
    pieces = tokenizer.get_vocab()
    return "".join(f"{piece}\n" for piece in sorted(pieces, key=pieces.__getitem__)).encode()


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
