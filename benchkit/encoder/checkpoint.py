"""Hugging Face BERT checkpoints: reading and writing `config.json` and the weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchkit.encoder.config import BertConfig
from benchkit.encoder.distilbert import SEGMENTS, as_bert_config, as_bert_name
from benchkit.encoder.model import MiniBert
from benchkit.encoder.tokenizer import read_json
from benchkit.errors import UserError

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
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


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
