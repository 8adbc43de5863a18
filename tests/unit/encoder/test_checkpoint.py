"""What is accepted as a checkpoint, and the one line that each other thing gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import CONFIG, VOCAB
from safetensors.torch import load_file, save_file

from benchkit.core.errors import UserError
from benchkit.encoder import Encoder, load_encoder, random_encoder, save_encoder

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def encoder() -> Encoder:
    return random_encoder("tiny", VOCAB, CONFIG, seed=0)


@pytest.fixture
def folder(encoder: Encoder, tmp_path: Path) -> Path:
    save_encoder(encoder, tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path)


def edit_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def as_old_names(tensors: Tensors) -> Tensors:
    def old(name: str) -> str:
        if "LayerNorm" in name:
            name = name.replace("weight", "gamma").replace("bias", "beta")
        return f"bert.{name}"

    extra = {"cls.predictions.bias": torch.zeros(3), "bert.embeddings.position_ids": torch.arange(32)}
    return {old(name): tensor for name, tensor in tensors.items()} | extra


def test_old_names_and_other_tensors(folder: Path, encoder: Encoder) -> None:
    edit(folder, as_old_names)
    assert load_encoder(folder).fingerprint == encoder.fingerprint


def test_pytorch_bin(folder: Path, encoder: Encoder) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load_encoder(folder).fingerprint == encoder.fingerprint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32(folder: Path, dtype: torch.dtype) -> None:
    edit(folder, lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    loaded = load_encoder(folder)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.encode(["a b"]).isfinite().all()


def test_without_pooler(folder: Path, encoder: Encoder) -> None:
    edit(folder, lambda tensors: {name: t for name, t in tensors.items() if "pooler" not in name})
    loaded = load_encoder(folder)
    assert "no pooler weights" in loaded.notes[0]
    assert torch.equal(loaded.encode(["a b"]), encoder.encode(["a b"]))
    with pytest.raises(UserError, match="this checkpoint has none"):
        loaded.encode(["a"], pooling="pooler")


def test_vocab_txt_and_its_casing(folder: Path, encoder: Encoder) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    loaded = load_encoder(folder)
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.tokenize([("A",)]).ids.tolist() == [2, VOCAB.index("a"), 3]
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_encoder(folder).tokenize([("A",)]).ids.tolist() == [2, 1, 3]


def test_padded_embedding_table_is_accepted(folder: Path) -> None:
    name = "embeddings.word_embeddings.weight"
    edit(folder, lambda tensors: tensors | {name: torch.cat([tensors[name], torch.zeros(2, 32)])})
    edit_json(folder / "config.json", vocab_size=16)
    assert load_encoder(folder).encode(["a"]).shape == (1, 32)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda tensors: {n: t for n, t in tensors.items() if n != name})


def bad_bin(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model": Path("x")}, folder / "pytorch_model.bin")


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def misshape(folder: Path) -> None:
    edit(folder, lambda tensors: tensors | {"pooler.dense.weight": torch.zeros(3, 3)})


def other_vocab(words: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("\n".join([*VOCAB, *map(str, range(99))][:words]))

    return change


def config(**values: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **values)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json.*model.safetensors or pytorch_model.bin"),
        (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors and no pytorch_model.bin"),
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json and no vocab.txt"),
        (lambda f: truncate(f / "model.safetensors"), "truncated, corrupt"),
        (lambda f: truncate(f / "config.json"), "cannot be read as JSON"),
        (lambda f: truncate(f / "tokenizer.json"), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[1]"), "a JSON object is expected"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "not a tokenizer that can be read"),
        (pointer, "git-lfs pointer"),
        (bad_bin, "corrupt or not a weights file|does not hold tensors"),
        (drop("encoder.layer.1.output.dense.bias"), "no tensor 'encoder.layer.1.output.dense.bias'"),
        (misshape, r"'pooler.dense.weight' is \(3, 3\), but config.json makes it \(32, 32\)"),
        (config(model_type="roberta"), "model_type is 'roberta'"),
        (config(model_type="mpnet"), "model_type is 'mpnet'"),
        (config(position_embedding_type="relative_key"), "position_embedding_type is 'relative_key'"),
        (config(hidden_act="mish"), "hidden_act 'mish'"),
        (config(num_attention_heads=5), "5 heads do not divide"),
        (config(hidden_size="big"), "hidden_size must be a whole number"),
        (config(is_decoder=True), "is_decoder"),
        (config(num_hidden_layers=3), "no tensor .*3 layers"),
        (other_vocab(len(VOCAB) + 5), "19 word pieces, but config.json says vocab_size 14"),
        (other_vocab(len(VOCAB) - 5), "9 word pieces, but config.json says vocab_size 14"),
        (other_vocab(3), r"no \[SEP\], \[MASK\]"),
    ],
)
def test_bad_checkpoints_are_one_line(folder: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=says) as caught:
        load_encoder(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_encoder(tmp_path / "absent")
