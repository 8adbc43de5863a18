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
from benchkit.encoder.checkpoint import read_tensors

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


@pytest.mark.parametrize("more", [1, 7, 1000])
def test_a_table_larger_than_the_vocabulary(folder: Path, encoder: Encoder, more: int) -> None:
    name = "embeddings.word_embeddings.weight"
    edit(folder, lambda tensors: tensors | {name: torch.cat([tensors[name], torch.zeros(more, 32)])})
    edit_json(folder / "config.json", vocab_size=len(VOCAB) + more)
    loaded = load_encoder(folder)
    assert torch.equal(loaded.encode(["a b"]), encoder.encode(["a b"]))
    assert f"14 word pieces for {14 + more:,} embeddings" in loaded.notes[0]


def test_vocab_txt_as_editors_leave_it(folder: Path, encoder: Encoder) -> None:
    (folder / "tokenizer.json").unlink()
    for text in ("\ufeff" + "\n".join(VOCAB), "\n".join(VOCAB) + "\n\n\n", "\r\n".join(VOCAB) + "\r\n\r\n"):
        (folder / "vocab.txt").write_text(text, encoding="utf-8", newline="")
        loaded = load_encoder(folder)
        assert (loaded.fingerprint, loaded.notes) == (encoder.fingerprint, ())


def test_a_cased_vocabulary_that_is_lower_cased_is_noted(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join([*VOCAB[:-1], "A"]))
    assert "texts are lower-cased" in load_encoder(folder).notes[0]
    for said in (True, False):
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": said}))
        assert load_encoder(folder).notes == ()
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": null}')
    assert "texts are lower-cased" in load_encoder(folder).notes[0]


@pytest.mark.parametrize("prefix", ["module.", "model.", "0.auto_model.", "module.bert.", "model.encoder.bert."])
def test_prefixes(folder: Path, encoder: Encoder, prefix: str) -> None:
    beside = prefix.removesuffix("bert.")
    heads = {f"{beside}cls.predictions.bias": torch.zeros(3), f"{prefix}embeddings.position_ids": torch.arange(32)}
    edit(folder, lambda tensors: {f"{prefix}{name}": tensor for name, tensor in tensors.items()} | heads)
    loaded = load_encoder(folder)
    assert (loaded.fingerprint, loaded.notes) == (encoder.fingerprint, ())
    assert "cls.predictions.bias" in read_tensors(folder)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict"])
def test_a_training_checkpoint(folder: Path, encoder: Encoder, wrapper: str) -> None:
    tensors = {f"model.bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save({"epoch": 3, wrapper: tensors, "optimizer": {"lr": 1.0}}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load_encoder(folder).fingerprint == encoder.fingerprint


def split_weights(folder: Path) -> Path:
    """Weights in two files, with an index; returns that."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + at % 2:05}-of-00002.safetensors" for at, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensor for name, tensor in tensors.items() if places[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_weights_in_several_files(folder: Path, encoder: Encoder) -> None:
    index = split_weights(folder)
    assert load_encoder(folder).fingerprint == encoder.fingerprint
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00002.safetensors: is not there, but the index"):
        load_encoder(folder)
    for content in ('{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": []}', "{}"):
        index.write_text(content)
        with pytest.raises(UserError, match="has no weight_map that names files of its folder"):
            load_encoder(folder)


def test_an_old_folder_of_sentence_transformers(folder: Path, encoder: Encoder) -> None:
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.replace(inner / path.name)
    loaded = load_encoder(folder)
    assert (loaded.fingerprint, loaded.name) == (encoder.fingerprint, folder.name)


def test_a_classifier_is_noted(folder: Path, encoder: Encoder) -> None:
    edit(folder, lambda tensors: tensors | {f"classifier.{name}": torch.zeros(2) for name in "abcd"})
    loaded = load_encoder(folder)
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.notes == (
        "not read, for not being the encoder's: classifier.a, classifier.b, classifier.c and 1 more",
    )


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


def add(*names: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda tensors: tensors | {name: torch.zeros(2) for name in names})


def only(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, lambda _: {name: torch.zeros(2)})


def set_one(name: str, value: float) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> Tensors:
        tensors[name].view(-1)[-1] = value
        return tensors

    return lambda folder: edit(folder, change)


def as_integers(folder: Path) -> None:
    edit(folder, lambda tensors: {name: tensor.to(torch.int8) for name, tensor in tensors.items()})


def two_encoders(folder: Path) -> None:
    edit(folder, lambda tensors: {f"{which}.bert.{name}": t.clone() for which in "ab" for name, t in tensors.items()})


def module(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(torch.nn.Linear(2, 2), folder / "pytorch_model.bin")


def settings(**values: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps(values))


def added_tokens(values: object) -> Callable[[Path], object]:
    return lambda folder: (folder / "added_tokens.json").write_text(json.dumps(values))


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
        (bad_bin, r"holds Python objects \(pathlib.PosixPath\)"),
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
        (config(num_hidden_layers=1), "has 2 layers, but config.json says num_hidden_layers 1"),
        (config(num_hidden_layers=2**31), "num_hidden_layers must be a whole number from 1 to 1,024, not 2147483648"),
        (config(vocab_size=10**30), "vocab_size must be a whole number from 1 to 16,777,216, not 10000"),
        (config(hidden_size=10**400), "hidden_size must be a whole number"),
        (config(model_type=[]), r"model_type is \[\]"),
        (config(hidden_act=[]), r"hidden_act \[\] is not one of"),
        (config(layer_norm_eps=float("nan")), "layer_norm_eps must be a number"),
        (lambda f: (f / "config.json").write_text("[" * 5000), "nested too deeply"),
        (lambda f: (f / "tokenizer.json").write_text('{"model":' * 5000), "nested too deeply"),
        (set_one("encoder.layer.1.output.dense.bias", float("nan")), "'encoder.layer.1.output.dense.bias' holds NaN"),
        (set_one("embeddings.LayerNorm.weight", float("-inf")), "'embeddings.LayerNorm.weight' holds NaN or infinity"),
        (add("encoder.layer.0.adapter.weight"), r"has tensors that a BERT has not \(encoder.layer.0.adapter.weight\)"),
        (add("embeddings.extra.weight"), "has tensors that a BERT has not"),
        (as_integers, "is torch.int8, not floating point"),
        (
            only("classifier.weight"),
            "has no tensor 'embeddings.word_embeddings.weight', only such as classifier.weight",
        ),
        (two_encoders, "has several encoders, a.bert., b.bert.: keep the tensors of one"),
        (module, r"holds Python objects \(torch.nn.modules.linear.Linear\), not tensors alone"),
        (settings(do_lower_case="no"), "do_lower_case must be true or false, not 'no'"),
        (settings(added_tokens_decoder=[1]), "added_tokens_decoder is not a dictionary"),
        (settings(added_tokens_decoder={"14": 3}), "added_tokens_decoder is not a dictionary"),
        (added_tokens({"<url>": 14}), "has 15 word pieces, but config.json says vocab_size 14"),
        (added_tokens({"<url>": 90}), "gives '<url>' the id 90, but the vocabulary makes it 14"),
        (added_tokens({"": 14}), "a token is not empty"),
        (added_tokens({"a": "b"}), "its id a whole number"),
        (added_tokens([]), "a JSON object is expected"),
        (other_vocab(len(VOCAB) + 5), "19 word pieces, but config.json says vocab_size 14"),
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
