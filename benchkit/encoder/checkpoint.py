"""Checkpoints in the Hugging Face layout: reading, checking and writing encoders."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.core.rng import generator
from benchkit.core.settings import read_json
from benchkit.encoder.bert import BertConfig, MiniBert, read_names
from benchkit.encoder.encoder import Encoder
from benchkit.encoder.tokenizer import load_tokenizer, wordpiece

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SEGMENTS = 2  # of a DistilBERT: nothing is added for a segment


def names(config: BertConfig, pooler: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each of our parameters with the Hugging Face tensors it is made of, one below the other."""
    table = read_names()["bert"]
    for ours, theirs in table["embeddings"].items():
        yield f"{ours}.weight", (theirs,)
    parts = {"norm": table["norm"]}
    for number in range(config.num_hidden_layers):
        for ours, theirs in table["layer"].items():
            parts[f"layers.{number}.{ours}"] = [f"encoder.layer.{number}.{name}" for name in theirs]
    if pooler:
        parts["pooler"] = table["pooler"]
    for ours, theirs in parts.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs)


def _as_bert_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of DistilBERT's `config.json` under BERT's names."""
    config = {ours: values[theirs] for theirs, ours in read_names()["distilbert"]["config"].items() if theirs in values}
    return {"model_type": "bert", "type_vocab_size": SEGMENTS, "layer_norm_eps": 1e-12, **config}


def _as_bert_name(name: str) -> str:
    """BERT's name of one of DistilBERT's tensors."""
    match = re.fullmatch(r"transformer\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
    part = read_names()["distilbert"]["layer"].get(match[2]) if match else None
    return f"encoder.layer.{match[1]}.{part}.{match[3]}" if match and part else name


def read_model(folder: Path) -> tuple[MiniBert, tuple[str, ...]]:
    """The model of a folder, float32, in `eval()`, without pooler where the checkpoint has none; and notes.

    Raises:
        UserError: a file is missing, cannot be read, or describes something else than a BERT; tensors are missing, of
            another shape than `config.json` says, or not finite; or the encoder has tensors that a BERT has not.
    """
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise UserError(f"{folder}: no config.json; an encoder folder holds it, {' or '.join(WEIGHTS)}, and vocab.txt")
    config, distil = read_config(config_path, str(config_path))
    path, tensors = _read_weights(folder)
    tensors = {_as_bert_name(name) if distil else name: tensor for name, tensor in tensors.items()}
    if distil:
        tensors["embeddings.token_type_embeddings.weight"] = torch.zeros(SEGMENTS, config.hidden_size)
    has_pooler = "pooler.dense.weight" in tensors
    with torch.device("meta"):
        model = MiniBert(config, pooler=has_pooler)
    state = {}
    for ours, theirs in names(config, has_pooler):
        rows, *rest = model.get_parameter(ours).shape
        wanted = (rows // len(theirs), *rest)
        parts = []
        for name in theirs:
            if name not in tensors:
                raise UserError(f"{path}: has no tensor {name!r}; is it a BERT of {config.num_hidden_layers} layers?")
            parts.append(_checked(tensors.pop(name), name, wanted, path))
        state[ours] = torch.cat(parts)
    notes = _unread(tensors, config, path)
    if not has_pooler:
        notes = ("the checkpoint has no pooler weights, so there is no pooling 'pooler'", *notes)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(True).eval(), notes


def _checked(tensor: Tensor, name: str, wanted: tuple[int, ...], path: Path) -> Tensor:
    """A tensor as float32.

    Raises:
        UserError: it is of another shape or type, or holds NaN or infinity.
    """
    if tensor.shape != wanted:
        raise UserError(f"{path}: {name!r} is {tuple(tensor.shape)}, but config.json makes it {wanted}")
    if not tensor.is_floating_point():
        raise UserError(f"{path}: {name!r} is {tensor.dtype}, not floating point: quantised weights cannot be loaded")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise UserError(f"{path}: {name!r} holds NaN or infinity: the checkpoint is damaged, or its training diverged")
    return tensor


_HARMLESS = re.compile(
    r"cls\..*|pooler\..*|lm_head\..*|vocab_(transform|layer_norm|projector)\..*|embeddings\.(position|token_type)_ids"
)
"""What may be left out: heads for pre-training, and constants that old releases stored."""


def _unread(left: Iterable[str], config: BertConfig, path: Path) -> tuple[str, ...]:
    """A note on tensors that are not the encoder's, such as a classifier's.

    Raises:
        UserError: some are the encoder's, which would give other numbers without them.
    """
    left = sorted(name for name in left if not _HARMLESS.fullmatch(name))
    layers = [int(match[1]) + 1 for name in left if (match := re.match(r"encoder\.layer\.(\d+)\.", name))]
    if layers and max(layers) > config.num_hidden_layers:
        raise UserError(
            f"{path}: has {max(layers)} layers, but config.json says num_hidden_layers {config.num_hidden_layers}"
        )
    listed = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    if any(name.startswith(("embeddings.", "encoder.", "transformer.")) for name in left):
        raise UserError(f"{path}: has tensors that a BERT has not ({listed}): without them it gives other numbers")
    return (f"not read, for not being the encoder's: {listed}",) if left else ()


def read_config(path: Path, where: str) -> tuple[BertConfig, bool]:
    """The shape that a `config.json` describes, and whether it is that of a DistilBERT.

    Raises:
        UserError: it cannot be read, or describes something that cannot be loaded; `where` names it.
    """
    values = read_json(path)
    distil = values.get("model_type") == "distilbert"
    return BertConfig.from_json(_as_bert_config(values) if distil else values, where), distil


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


_WORDS = "embeddings.word_embeddings.weight"


def _canonical(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors by Hugging Face's present names: no prefixes, and not TensorFlow's gamma and beta.

    The encoder's prefix is what stands before its word embeddings: `bert.`, `module.`, `0.auto_model.`, `model.bert.`;
    what is beside the encoder loses the part that is not `bert.`.

    Raises:
        UserError: there are no word embeddings, or those of several encoders.
    """
    prefixes = sorted(name.removesuffix(_WORDS) for name in tensors if name.endswith(_WORDS))
    usual = [prefix for prefix in prefixes if prefix in ("", "bert.", "distilbert.")]
    if not prefixes:
        some = ", ".join(sorted(tensors)[:3]) or "none"
        raise UserError(f"{path}: has no tensor {_WORDS!r}, only such as {some}; is it a BERT?")
    if len(prefixes) > 1 and len(usual) != 1:
        raise UserError(f"{path}: has several encoders, {', '.join(prefixes)}: keep the tensors of one")
    prefix = (usual or prefixes)[0]
    beside = re.sub(r"(distil)?bert\.$", "", prefix)
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(prefix) if name.startswith(prefix) else name.removeprefix(beside)
        for old, new in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
            name = name.removesuffix(old) + new if name.endswith(old) else name
        found[name] = tensor
    return found


def weight_files(folder: Path) -> tuple[Path, list[Path]]:
    """The file of weights or the index of several, and the files that hold the tensors.

    Raises:
        UserError: there are none, or the index names none.
    """
    for name in WEIGHTS:
        if (path := folder / name).is_file():
            return path, [path]
        if (index := folder / f"{name}.index.json").is_file():
            places = read_json(index).get("weight_map")
            files = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
            if not files or not all(Path(file).name == file for file in files):
                raise UserError(f"{index}: has no weight_map that names files of its folder")
            return index, [folder / file for file in files]
    raise UserError(f"{folder}: no {' and no '.join(WEIGHTS)}; one of them must hold the weights")


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """All tensors of a folder's weights by their present names, and the file that says where they are.

    Raises:
        UserError: there are none, or a file cannot be read.
    """
    path, files = weight_files(folder)
    return path, _canonical({name: tensor for file in files for name, tensor in _read(file).items()}, path)


_WRAPPERS = ("state_dict", "model_state_dict", "model")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            pointer = file.read(24).startswith(b"version https://git-lfs")
        if path.suffix == ".safetensors" and not pointer:
            return load_file(path)
        tensors = None if pointer else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: is not there, but the index of the weights names it") from None
    except Exception as error:  # noqa: BLE001 - safetensors, pickle and torch raise all kinds for a damaged file
        reason = str(error).strip().partition("\n")[0]
        why = f"truncated, corrupt or not a weights file ({reason:.120}); fetch it again"
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            why = f"holds Python objects ({match[1]}), not tensors alone; save model.state_dict() instead"
        raise UserError(f"{path}: {why}") from None
    if pointer:
        raise UserError(f"{path}: is a git-lfs pointer, not the weights; run `git lfs pull` in its repository")
    while isinstance(tensors, dict) and (inner := next((each for each in _WRAPPERS if each in tensors), None)):
        tensors = tensors[inner]
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise UserError(f"{path}: does not hold tensors by name; save model.state_dict()")
    return tensors


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weights, those that are not the encoder's too, by Hugging Face's present names.

    Raises:
        UserError: they cannot be read.
    """
    return _read_weights(model_folder(folder))[1]


def model_folder(folder: Path) -> Path:
    """The folder inside an encoder's that has `config.json`: itself, or `0_Transformer` of old sentence-transformers.

    Raises:
        UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; an encoder folder holds config.json, weights and tokenizer")
    inner = [path.parent for path in folder.glob("0_*/config.json") if not (folder / "config.json").is_file()]
    return inner[0] if len(inner) == 1 else folder


def load_encoder(folder: Path | str) -> Encoder:
    """An encoder from a folder in Hugging Face's layout; its name is the folder's.

    The folder holds `config.json`, `model.safetensors` or `pytorch_model.bin` (in several files too, with their
    index), and `tokenizer.json` or `vocab.txt` (with `tokenizer_config.json` where casing is not the default); or
    all of this in `0_Transformer`.

    Raises:
        UserError: see `read_model` and `load_tokenizer`.
    """
    folder = Path(folder)
    inner = model_folder(folder)
    model, notes = read_model(inner)
    tokenizer, more = load_tokenizer(inner, model.config.vocab_size)
    return Encoder(folder.absolute().name, model, tokenizer, (*notes, *more))


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
        if "norm" in path or path.endswith("bias"):
            nn.init.constant_(parameter, float(path.endswith("weight")))
        else:
            scale = model.config.initializer_range
            nn.init.normal_(parameter, 0.0, scale, generator=generator(seed, "encoder", path))
