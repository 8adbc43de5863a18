"""Masked-language-model training of a miniBERT: from texts to an encoder's folder."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from benchkit.core.errors import UserError
from benchkit.core.head import count
from benchkit.core.plugins import Plugins
from benchkit.core.progress import Progress
from benchkit.core.protocol import Phase
from benchkit.core.rng import generator, global_stream
from benchkit.core.settings import read_json
from benchkit.encoder import BertConfig, Encoder, MiniBert, random_encoder, resolve_precision
from benchkit.encoder.packing import gather
from benchkit.encoder.tokenizer import wordpiece
from benchkit.experiment.cell import Execution
from benchkit.experiment.config import choose_device
from benchkit.experiment.environment import PeakMemory, check_memory, environment
from benchkit.experiment.workspace import find_folder, open_encoder
from benchkit.pretraining.masked_lm import HeldOut, MaskedLm, frequencies, read_head, write_folder, write_png
from benchkit.pretraining.texts import (
    Pieces,
    Source,
    batches,
    mask,
    read_file,
    read_tasks,
    sequences,
    split_texts,
    train_vocab,
)
from benchkit.store.cells import load_checkpoint, save_checkpoint
from benchkit.store.files import locked, write_atomic
from benchkit.training.fast_cpu import fast_cpu_layers
from benchkit.training.optimizer import AdamW, groups_of, rate

_EPOCHS = 1_000_000
_LIMITS = {
    "vocab_size": (1, 2**24),
    "max_length": (4, 2**20),
    "steps": (0, 10**9),
    "batch": (8, 2**24),
    "every": (0, 10**9),
    "seed": (0, 2**63),
}


@dataclass(frozen=True)
class Recipe:
    """How an encoder is pre-trained.

    Attributes:
        layers, hidden, heads, vocab_size, cased: of a new encoder; a continued one keeps its own.
        max_length: word pieces of a sequence, `[CLS]` and `[SEP]` included; longer texts become several sequences.
        dropout: of a new encoder, in its config too.
        steps: of the optimiser; 0 takes as many as `epochs` needs.
        epochs: passes over the texts.
        batch: word pieces a step, at most.
        warmup: share of the steps in which the rate rises.
        mask: share of the word pieces (with `whole_word`, of the words) that are to be predicted.
        held_out: share of the texts that are never trained on.
        every: steps between two evaluations on the held-out texts, each with a checkpoint; 0 makes fifty in all.
    """

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    vocab_size: int = 8000
    cased: bool = False
    max_length: int = 128
    dropout: float = 0.1
    steps: int = 0
    epochs: float = 3.0
    batch: int = 4096
    learning_rate: float = 5e-4
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    mask: float = 0.15
    whole_word: bool = False
    held_out: float = 0.01
    every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be from {low} to {high:,}, not {getattr(self, name)}")
        if not 0 < self.epochs <= _EPOCHS:
            raise ValueError(f"epochs must be more than 0, and at most {_EPOCHS:,}, not {self.epochs}")
        for name in ("mask", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        self.phase()  # checks the rest

    def phase(self) -> Phase:
        """What the optimiser and its schedule need to know."""
        names = ("learning_rate", "weight_decay", "schedule", "warmup", "clip")
        return Phase(decays="matrices", **{name: getattr(self, name) for name in names})  # as for BERT


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


@dataclass
class State:
    """Everything a training needs to continue; tensors and plain values only.

    Attributes:
        step: steps done; epoch, batch: where in the texts the next one begins.
        seconds, seen: spent in steps, and word pieces gone through in them.
        curve: a row for each evaluation on the held-out texts.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    seen: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


class Training:
    """Texts, model and optimisers of a request.

    Attributes:
        steps, every: the recipe's, or worked out where it has 0.
        identity: what must be equal for a stored state to be continued.
        head: whether the head for masked words is `new` or the checkpoint's (`kept`).
        unigram: what the frequencies of the training texts' word pieces reach on the held-out ones.
    """

    def __init__(self, request: Request, plugins: Plugins, say: Callable[[str], None]) -> None:
        """Read, tokenise, build; `say` is called before what takes long.

        Raises:
            UserError: no usable texts, encoder, device or precision.
        """
        self.request, self.recipe, self.device = request, request.recipe, choose_device(request.device)
        recipe, self.memory = self.recipe, PeakMemory(self.device)
        precision = resolve_precision(request.precision, self.device)
        self.autocast = precision == "bf16"  # weights and optimiser state stay fp32
        self.texts = split_texts(_sources(request, plugins), recipe.held_out)
        if request.base:
            encoder = open_encoder(request.base, plugins)
        else:
            say(f"making a vocabulary of up to {recipe.vocab_size:,} word pieces from {len(self.texts.train):,} texts")
            encoder = _new(self.texts.train, recipe, request.out.name)
        self.tokenizer, config = encoder.tokenizer, encoder.config
        self.identity: dict[str, Any] = {
            "format": 2,  # of the checkpoint
            "recipe": dataclasses.asdict(recipe),
            "texts": self.texts.fingerprint,
            "encoder": encoder.fingerprint,
            "precision": precision,
        }
        longest = min(recipe.max_length, config.max_position_embeddings)
        self.tokenized, held_out = (
            sequences(self.tokenizer, part, longest) for part in (self.texts.train, self.texts.held_out)
        )
        if not len(self.tokenized) or not len(held_out):
            raise UserError("the texts hold no words: nothing to train on, or nothing to hold out")
        self.pieces = Pieces.of(self.tokenizer, config.vocab_size, self.device)
        counted = frequencies(self.tokenized.ids, self.pieces.special)
        self.model = MaskedLm(encoder.model)
        folder = find_folder(request.base) if request.base and request.base not in plugins.encoders else None
        self.head = "kept" if folder is not None and read_head(self.model, folder) else "new"
        if self.head == "new":
            self.model.start_head(counted, recipe.seed)
        self.steps = recipe.steps or math.ceil(recipe.epochs * len(self.tokenized.ids) / recipe.batch)
        self.every = recipe.every or math.ceil(self.steps / 50)
        self.held_out = HeldOut(held_out, self.pieces, self.device)
        self.unigram = self.held_out.unigram(counted)
        self.model.to(self.device)
        groups = groups_of(self.model, recipe.phase())
        self.optimizer = AdamW(self.model.parameters(), recipe.weight_decay, groups)

    def train(self, state: State, progress: Progress) -> None:
        """Train from a state to the last step; the folder is written after each evaluation.

        Raises:
            UserError: the loss is no longer a number; the last saved state is from before.
        """
        model, recipe, lengths = self.model, self.recipe, self.tokenized.lengths
        if state.curve:
            model.load_state_dict(state.weights)
            self.optimizer.load_state_dict(state.optimizer)
        else:
            self._evaluate(state, math.nan, progress)
        plan = batches(lengths, recipe.batch, recipe.seed, state.epoch)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        since, started = state.step, time.perf_counter()
        model.train()
        with fast_cpu_layers(model):
            while state.step < self.steps:
                if state.batch == len(plan):
                    state.epoch, state.batch = state.epoch + 1, 0
                    plan = batches(lengths, recipe.batch, recipe.seed, state.epoch)
                total += self._step(plan[state.batch], state.step)
                state.seen += int(lengths[plan[state.batch]].sum())
                state.step, state.batch = state.step + 1, state.batch + 1
                if state.step % self.every == 0 or state.step == self.steps:
                    loss = float(total) / (state.step - since)  # a GPU is waited for here
                    state.seconds += time.perf_counter() - started
                    self._evaluate(state, loss, progress)
                    total.zero_()
                    since, started = state.step, time.perf_counter()
                progress.advance(1)

    def _step(self, rows: Tensor, step: int) -> Tensor:
        """One step on the word pieces hidden in `rows`; its mean loss over these."""
        recipe, model, device = self.recipe, self.model, self.device
        batch = gather(self.tokenized, rows, device, padded=device.type != "cpu")
        stream = generator(recipe.seed, "mask", step)
        ids, positions = mask(batch.ids, self.pieces, recipe.mask, recipe.whole_word, stream)
        with (
            global_stream(recipe.seed, "dropout", step),
            torch.autocast(device.type, torch.bfloat16, enabled=self.autocast),
        ):
            logits = model(batch, ids, positions)
        loss = F.cross_entropy(logits.float(), batch.ids[positions].long())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        self.optimizer.step(rate(recipe.phase(), step, self.steps))
        return loss.detach()

    def _evaluate(self, state: State, loss: float, progress: Progress) -> None:
        """Add a row to the curve, and save."""
        if state.step and not math.isfinite(loss):
            raise UserError(f"the loss is {loss} by step {state.step}: take a lower --lr, or a longer --warmup")
        score = self.held_out.score(self.model, self.autocast).numbers()
        state.curve.append(
            {
                "step": state.step,
                "epoch": round(state.seen / len(self.tokenized.ids), 4),
                "learning_rate": self.optimizer.lr,
                "loss": loss,
                **{f"held_out_{name}": value for name, value in score.items()},
                "pieces": state.seen,
                "seconds": round(state.seconds, 2),
            }
        )
        state.weights = self.model.state_dict()
        state.optimizer = self.optimizer.state_dict()
        out = self.request.out
        _write_record(out, self.record(state, "running"))  # first, since it says whose the folder is
        save_checkpoint(out / CHECKPOINT, vars(state))
        self.save(state)
        progress.advance(0, f"held-out perplexity {score['perplexity']:,.1f}")

    def save(self, state: State) -> None:
        """Write the encoder and its curve."""
        write_folder(self.request.out, self.model, self.tokenizer, self.request.half)
        curve = pd.DataFrame(state.curve).to_csv(index=False, lineterminator="\n")
        write_atomic(self.request.out / "curve.csv", curve.encode(), durable=False)

    def record(self, state: State, status: str) -> dict[str, Any]:
        texts = self.texts
        execution = Execution(self.device.type, self.identity["precision"], self.request.threads)
        return {
            "status": status,
            "command": shlex.join(["benchkit", *sys.argv[1:]]),
            "identity": self.identity,
            "from": self.request.base,
            "head": self.head,
            "parameters": sum(each.numel() for each in self.model.parameters()),
            "vocab_size": self.model.bert.config.vocab_size,
            "sources": [{"name": s.name, "sha256": s.sha256, "texts": len(s.texts)} for s in texts.sources],
            "texts": {"train": len(texts.train), "held_out": len(texts.held_out)},
            "pieces": {"train": len(self.tokenized.ids), "held_out_masked": len(self.held_out.targets)},
            "steps": self.steps,
            "unigram": self.unigram.numbers(),
            "result": {
                **{name: value for name, value in state.curve[-1].items() if value == value},
                "pieces_per_second": round(state.seen / state.seconds) if state.seconds else 0,
            },
            "peak_memory": self.memory.read(),
            "environment": environment(execution),
        }


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
    one, and ends with the numbers (on a CPU to the last bit) of an uninterrupted training.

    Raises:
        UserError: see `Training`; or the folder holds something else, or is in use.
    """
    out = request.out
    if (out / "config.json").exists() and not (out / RECORD).is_file():
        raise UserError(f"{out} holds an encoder that was not made here: choose another --out")
    training = Training(request, plugins, progress.say)
    with locked(out / ".lock", wait=False) as held:
        if not held:
            raise UserError(f"{out}: another process trains into this folder; wait for it, or choose another --out")
        found = _found(out, training.identity)
        if found.get("status") == "done":
            return found
        kept = load_checkpoint(out / CHECKPOINT, progress.say) if found else None
        state = State(**kept) if kept else State()
        progress.say(
            f"{len(training.texts.train):,} texts of {len(training.tokenized.ids):,} word pieces, "
            f"and {len(training.texts.held_out):,} held out; "
            f"{training.steps:,} steps{f', {state.step:,} done already' if state.step else ''}"
        )
        progress.start("pretrain", state.step, training.steps, "steps")
        try:
            training.train(state, progress)
        finally:
            progress.stop()
        training.save(state)
        record = training.record(state, "done")
        try:
            write_png(pd.DataFrame(state.curve), training.unigram, out / "curve.png")
        except ImportError:
            progress.say("no curve.png: matplotlib is not installed (pip install 'benchkit[plots]')")
        _write_record(out, record)
        (out / CHECKPOINT).unlink(missing_ok=True)
        return record


def _found(out: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The record of the same training, or {} where nothing has begun.

    Raises:
        UserError: the folder holds another training.
    """
    if not (out / RECORD).is_file():
        return {}
    record = read_json(out / RECORD)
    known = record["identity"] if isinstance(record.get("identity"), dict) else {}
    if not all(isinstance(part, dict) for part in (known.get("recipe"), record.get("result"), record.get("unigram"))):
        raise UserError(f"{out / RECORD} is damaged: choose another --out, or remove the folder")
    old, new = ({**each["recipe"], **each, "recipe": 0} for each in (known, json.loads(json.dumps(identity))))
    changed = [name for name in new if old.get(name) != new[name]]
    # A changed recipe makes another encoder, too: the cause is enough.
    if causes := [name for name in changed if name != "encoder"] or changed:
        raise UserError(f"{out} holds another pre-training ({', '.join(causes)} differ): choose another --out")
    return record


def _write_record(out: Path, record: Mapping[str, Any]) -> None:
    write_atomic(out / RECORD, (json.dumps(record, indent=2) + "\n").encode(), durable=False)
