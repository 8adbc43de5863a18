"""Checkpoints in the Hugging Face layout: reading, checking and writing encoders."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from benchkit.core.errors import UserError
from benchkit.core.rng import generator
from benchkit.encoder.bert import BertConfig, MiniBert
from benchkit.encoder.encoder import Encoder
from benchkit.encoder.tokenizer import load_tokenizer, read_json, wordpiece

_CONFIG = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_SAME = ("vocab_size", "max_position_embeddings", "initializer_range")
_PARTS = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_LAYER = re.compile(r"transformer\.layer\.(\d+)\.(.+)\.(weight|bias)")
SEGMENTS = 2


def as_bert_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of DistilBERT's `config.json` under BERT's names."""
    config = {ours: values[theirs] for theirs, ours in _CONFIG.items() if theirs in values}
    config |= {name: values[name] for name in _SAME if name in values}
    return {"model_type": "bert", "type_vocab_size": SEGMENTS, "layer_norm_eps": 1e-12, **config}


def as_bert_name(name: str) -> str:
    """BERT's name of a tensor."""
    name = name.removeprefix("distilbert.")
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _PARTS:
        return name
    return f"encoder.layer.{match[1]}.{_PARTS[match[2]]}.{match[3]}"


WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def names(config: BertConfig, pooler: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each of our parameters with the Hugging Face tensors it is made of, one below the other."""
    yield "word.weight", ("embeddings.word_embeddings.weight",)
    yield "position.weight", ("embeddings.position_embeddings.weight",)
    yield "segment.weight", ("embeddings.token_type_embeddings.weight",)
    pairs: list[tuple[str, tuple[str, ...]]] = [("norm", ("embeddings.LayerNorm",))]
    for number in range(config.num_hidden_layers):
        ours, theirs = f"layers.{number}", f"encoder.layer.{number}"
        self_attention = f"{theirs}.attention.self"
        pairs += [
            (f"{ours}.qkv", tuple(f"{self_attention}.{part}" for part in ("query", "key", "value"))),
            (f"{ours}.out", (f"{theirs}.attention.output.dense",)),
            (f"{ours}.norm1", (f"{theirs}.attention.output.LayerNorm",)),
            (f"{ours}.up", (f"{theirs}.intermediate.dense",)),
            (f"{ours}.down", (f"{theirs}.output.dense",)),
            (f"{ours}.norm2", (f"{theirs}.output.LayerNorm",)),
        ]
    if pooler:
        pairs.append(("pooler", ("pooler.dense",)))
    for our, their in pairs:
        for kind in ("weight", "bias"):
            yield f"{our}.{kind}", tuple(f"{name}.{kind}" for name in their)


def read_model(folder: Path) -> MiniBert:
    """The model of a folder, float32, in `eval()`; without pooler where the checkpoint has none.

    Raises:
        UserError: a file is missing, cannot be read, or describes something else than a BERT; or tensors are
            missing or of another shape than `config.json` says.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; an encoder folder holds config.json, weights and tokenizer")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise UserError(f"{folder}: no config.json; an encoder folder holds it, {' or '.join(WEIGHTS)}, and vocab.txt")
    config, distil = read_config(config_path, str(config_path))
    path = next((p for name in WEIGHTS if (p := folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no {' and no '.join(WEIGHTS)}; one of them must hold the weights")
    tensors = {_canonical(as_bert_name(name) if distil else name): tensor for name, tensor in _read(path).items()}
    if distil:  # nothing is added for a segment
        tensors["embeddings.token_type_embeddings.weight"] = torch.zeros(SEGMENTS, config.hidden_size)
    has_pooler = "pooler.dense.weight" in tensors
    with torch.device("meta"):
        model = MiniBert(config, pooler=has_pooler)
    state = {}
    for ours, theirs in names(config, has_pooler):
        missing = [name for name in theirs if name not in tensors]
        if missing:
            raise UserError(f"{path}: has no tensor {missing[0]!r}; is it a BERT of {config.num_hidden_layers} layers?")
        rows, *rest = model.get_parameter(ours).shape
        wanted = (rows // len(theirs), *rest)
        for name in theirs:
            if tensors[name].shape != wanted:
                found = tuple(tensors[name].shape)
                raise UserError(f"{path}: {name!r} is {found}, but config.json makes it {wanted}")
        state[ours] = torch.cat([tensors[name].float() for name in theirs])
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True).eval()


def read_config(path: Path, where: str) -> tuple[BertConfig, bool]:
    """The shape that a `config.json` describes, and whether it is that of a DistilBERT.

    Raises:
        UserError: it cannot be read, or describes something that cannot be loaded; `where` names it.
    """
    values = read_json(path)
    distil = values.get("model_type") == "distilbert"
    return BertConfig.from_json(as_bert_config(values) if distil else values, where), distil


def write_model(model: MiniBert, folder: Path) -> None:
    """`config.json` and `model.safetensors` into an existing folder, as transformers reads them; float32."""
    config = {"architectures": ["BertModel"], "model_type": "bert", "pad_token_id": 0, **asdict(model.config)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    tensors = {}
    for ours, theirs in names(model.config, model.pooler is not None):
        value = model.get_parameter(ours).detach().float().cpu()
        for name, part in zip(theirs, value.chunk(len(theirs)), strict=True):
            tensors[name] = part.clone()
    # Not `save_file`, whose errors tell nothing of a full disk, and which sets a mode of its own.
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def _canonical(name: str) -> str:
    """Hugging Face's present name of a tensor: no `bert.` in front, and not TensorFlow's gamma and beta."""
    name = name.removeprefix("bert.")
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    return name.removesuffix("beta") + "bias" if name.endswith("LayerNorm.beta") else name


def _read(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            raise UserError(f"{path}: is a git-lfs pointer, not the weights; run `git lfs pull` in its repository")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{path}: truncated, corrupt or not a weights file ({reason:.120}); fetch it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{path}: does not hold tensors by name; is it a whole pickled model?")
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All of a weights file, those that are not the encoder's too, by Hugging Face's present names without `bert.`.

    Raises:
        UserError: it cannot be read.
    """
    return {_canonical(name): tensor for name, tensor in _read(path).items()}


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
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")


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
