"""A pre-training from its request to its folder."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from benchkit.core.errors import UserError
from benchkit.core.head import count
from benchkit.core.plugins import Plugins
from benchkit.core.progress import Progress
from benchkit.core.settings import read_json
from benchkit.encoder import BertConfig, Encoder, MiniBert, random_encoder, resolve_precision
from benchkit.encoder.checkpoint import names, read_tensors
from benchkit.encoder.tokenizer import wordpiece
from benchkit.experiment.cell import Execution
from benchkit.experiment.config import choose_device
from benchkit.experiment.environment import PeakMemory, check_memory, environment
from benchkit.experiment.workspace import find_folder, open_encoder
from benchkit.pretraining.texts import Pieces, Source, read_file, read_tasks, sequences, split_texts, train_vocab
from benchkit.pretraining.train import (
    HeldOut,
    MaskedLm,
    Recipe,
    State,
    Training,
    frequencies,
    train,
    write_csv,
    write_png,
)
from benchkit.store.cells import load_checkpoint, save_checkpoint
from benchkit.store.files import locked, write_atomic

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
    tensors = read_tensors(folder)
    if any(theirs not in tensors for theirs in _HEAD.values()):
        return False
    with torch.no_grad():
        for ours, theirs in _HEAD.items():
            parameter = model.get_parameter(ours)
            if tensors[theirs].shape != parameter.shape:
                found, wanted = tuple(tensors[theirs].shape), tuple(parameter.shape)
                raise UserError(f"{folder}: {theirs!r} is {found}, but config.json makes it {wanted}")
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


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        data: a folder with tasks' data, or `demo`; of it the training texts of `tasks`, or of all that are there.
        columns: of the tables among `files`.
        base: an encoder to go on with, by name or folder; "" makes a new one.
        half: store the weights as fp16.
    """

    out: Path
    files: tuple[Path, ...] = ()
    data: str = ""
    tasks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    base: str = ""
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    half: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1


def prepare(request: Request, plugins: Plugins, say: Callable[[str], None]) -> Training:
    """Read, tokenise, build; `say` is told before what takes long.

    Raises:
        UserError: no usable texts, encoder, device or precision.
    """
    recipe, device = request.recipe, choose_device(request.device)
    precision, memory = resolve_precision(request.precision, device), PeakMemory(device)
    texts = split_texts(_sources(request, plugins), recipe.held_out)
    if request.base:
        encoder = open_encoder(request.base, plugins)
    else:
        say(f"making a vocabulary of up to {recipe.vocab_size:,} word pieces from {len(texts.train):,} texts")
        encoder = _new(texts.train, recipe, request.out.name)
    tokenizer, config = encoder.tokenizer, encoder.config
    identity = {
        "recipe": dataclasses.asdict(recipe),
        "texts": texts.fingerprint,
        "encoder": encoder.fingerprint,
        "precision": precision,
    }
    longest = min(recipe.max_length, config.max_position_embeddings)
    train, held_out = (sequences(tokenizer, part, longest) for part in (texts.train, texts.held_out))
    if not len(train) or not len(held_out):
        raise UserError("the texts hold no words: nothing to train on, or nothing to hold out")
    pieces = Pieces.of(tokenizer, config.vocab_size, device)
    counted = frequencies(train.ids, pieces.special)
    model = MaskedLm(encoder.model)
    folder = find_folder(request.base) if request.base and request.base not in plugins.encoders else None
    kept = folder is not None and read_head(model, folder)
    if not kept:
        model.start_head(counted, recipe.seed)
    steps = recipe.steps or math.ceil(recipe.epochs * len(train.ids) / recipe.batch)
    measured = HeldOut(held_out, pieces, device)
    return Training(
        recipe=recipe,
        steps=steps,
        every=recipe.every or math.ceil(steps / 50),
        tokenized=train,
        pieces=pieces,
        held_out=measured,
        device=device,
        autocast=precision == "bf16",
        model=model.to(device),
        tokenizer=tokenizer,
        texts=texts,
        identity=identity,
        head="kept" if kept else "new",
        unigram=measured.unigram(counted),
        memory=memory,
    )


def _sources(request: Request, plugins: Plugins) -> list[Source]:
    sources = [read_file(path, request.columns) for path in request.files]
    if request.data:
        names = request.tasks or tuple(plugins.tasks)
        sources += read_tasks(request.data, [plugins.task(name) for name in names])
    elif request.tasks:
        raise UserError("--tasks chooses among the tasks of --data DIR, and there is none")
    if not sources:
        raise UserError("no texts: name files, or with --data a folder with the tasks' training texts (or `demo`)")
    return sources


def _new(texts: Sequence[str], recipe: Recipe, name: str) -> Encoder:
    vocab = train_vocab(texts, recipe.vocab_size, recipe.cased)
    try:
        config = BertConfig(
            vocab_size=len(vocab),
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.hidden,
            max_position_embeddings=recipe.max_length,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
        )
    except ValueError as error:
        raise UserError(f"no such encoder: {error}") from None
    with torch.device("meta"):
        parameters = count(MiniBert(config))
    check_memory(parameters, "this encoder")
    encoder = random_encoder(name, vocab, config, recipe.seed)
    if recipe.cased:
        encoder.tokenizer = wordpiece(vocab, name, {"do_lower_case": False})
    return encoder


RECORD, CHECKPOINT = "pretrain.json", "checkpoint.pt"


def pretrain(request: Request, plugins: Plugins, progress: Progress) -> dict[str, Any]:
    """Train, and leave in `request.out` the encoder, its record and its curve; returns the record.

    The folder can be loaded from the first evaluation on the held-out texts on. The same request goes on after the last
    one, and ends with the numbers (on a CPU to the last bit) of a training that was left alone.

    Raises:
        UserError: see `prepare` and `train`; or the folder holds something else, or is in use.
    """
    out = request.out
    if (out / "config.json").exists() and not (out / RECORD).is_file():
        raise UserError(f"{out} holds an encoder that was not made here: choose another --out")
    training = prepare(request, plugins, progress.say)
    with locked(out / ".lock", wait=False) as held:
        if not held:
            raise UserError(f"{out}: another process trains into this folder; wait for it, or choose another --out")
        found = _found(out, training.identity)
        if found.get("status") == "done":
            return found
        state = _stored(out, found, progress.say)
        texts = training.texts
        progress.say(
            f"{len(texts.train):,} texts of {len(training.tokenized.ids):,} word pieces, "
            f"and {len(texts.held_out):,} held out; "
            f"{training.steps:,} steps{f', {state.step:,} done already' if state.step else ''}"
        )
        progress.start("pretrain", state.step, training.steps, "steps")

        def on_evaluation(state: State) -> None:
            _save(request, training, state, "running")
            progress.advance(0, f"held-out perplexity {state.curve[-1]['held_out_perplexity']:,.1f}")

        try:
            train(training, state, on_evaluation, lambda: progress.advance(1))
        finally:
            progress.stop()
        return _finish(request, training, state, progress.say)


def _found(out: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the same training, or {} where nothing has begun.

    Raises:
        UserError: the folder holds another training.
    """
    if not (out / RECORD).is_file():
        return {}
    record = read_json(out / RECORD)
    known = record.get("identity")
    recipe = known.get("recipe") if isinstance(known, dict) else None
    if not all(isinstance(part, dict) for part in (recipe, record.get("result"), record.get("unigram"))):
        raise UserError(f"{out / RECORD} is damaged: choose another --out, or remove the folder")
    changed = _differences(record["identity"], json.loads(json.dumps(identity)))
    if changed:
        raise UserError(f"{out} holds another pre-training ({', '.join(changed)} differ): choose another --out")
    return record


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    before, after = ({**each["recipe"], **each} for each in (old, new))
    names = [name for name in after if name != "recipe" and before.get(name) != after[name]]
    # A changed recipe makes another encoder, too: the cause is enough.
    return [name for name in names if name != "encoder"] or names


def _stored(out: Path, found: Mapping[str, Any], say: Callable[[str], None]) -> State:
    kept = load_checkpoint(out / CHECKPOINT, say) if found else None
    return State(**kept) if kept else State()


def _save(request: Request, training: Training, state: State, status: str) -> dict[str, Any]:
    """Leave everything but the plot; the record comes first, since it says whose the folder is."""
    out, record = request.out, _record(request, training, state, status)
    if status == "running":
        _write_record(out, record)
        save_checkpoint(out / CHECKPOINT, vars(state))
    write_folder(out, training.model, training.tokenizer, request.half)
    write_csv(state.curve, out / "curve.csv")
    return record


def _finish(request: Request, training: Training, state: State, say: Callable[[str], None]) -> dict[str, Any]:
    out, record = request.out, _save(request, training, state, "done")
    try:
        write_png(state.curve, training.unigram, out / "curve.png")
    except ImportError:
        say("no curve.png: matplotlib is not installed (pip install 'benchkit[plots]')")
    _write_record(out, record)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return record


def _write_record(out: Path, record: Mapping[str, Any]) -> None:
    write_atomic(out / RECORD, (json.dumps(record, indent=2) + "\n").encode(), durable=False)


def _record(request: Request, training: Training, state: State, status: str) -> dict[str, Any]:
    texts, unigram = training.texts, training.unigram
    execution = Execution(training.device.type, training.identity["precision"], request.threads)
    return {
        "status": status,
        "command": shlex.join(["benchkit", *sys.argv[1:]]),
        "identity": training.identity,
        "from": request.base,
        "head": training.head,
        "parameters": sum(each.numel() for each in training.model.parameters()),
        "vocab_size": training.model.bert.config.vocab_size,
        "sources": [{"name": s.name, "sha256": s.sha256, "texts": len(s.texts)} for s in texts.sources],
        "texts": {"train": len(texts.train), "held_out": len(texts.held_out)},
        "pieces": {"train": len(training.tokenized.ids), "held_out_masked": len(training.held_out.targets)},
        "steps": training.steps,
        "unigram": {"loss": unigram.loss, "perplexity": unigram.perplexity, "accuracy": unigram.accuracy},
        "result": {
            **{name: value for name, value in state.curve[-1].items() if value == value},
            "pieces_per_second": round(state.seen / state.seconds) if state.seconds else 0,
        },
        "peak_memory": training.memory.read(),
        "environment": environment(execution),
    }
