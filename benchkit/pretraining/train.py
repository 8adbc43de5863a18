"""Masked-language-model training."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.core.protocol import Phase
from benchkit.core.rng import generator, global_stream
from benchkit.encoder import MiniBert, Tokenized
from benchkit.encoder.bert import ACTIVATIONS, activate
from benchkit.encoder.packing import Batch, gather
from benchkit.experiment.environment import PeakMemory
from benchkit.pretraining.texts import Pieces, Texts, batches, mask, pack
from benchkit.store.files import write_atomic
from benchkit.training.fast_cpu import fast_cpu_layers
from benchkit.training.optimizer import AdamW, rate


class MaskedLm(nn.Module):
    """`BertForMaskedLM`: its outputs are tied to its inputs, so of its own it has a dense layer, a norm and a bias."""

    def __init__(self, bert: MiniBert) -> None:
        super().__init__()
        hidden = bert.config.hidden_size
        bert.pooler = None  # nothing here trains it
        self.bert = bert
        self.activation = ACTIVATIONS[bert.config.hidden_act]
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=bert.config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(bert.config.vocab_size))

    def forward(self, batch: Batch, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (n, vocab) at `positions`; `ids` (total,) stand in for the batch's own."""
        top = len(self.bert.layers)
        states = self.bert(ids, batch.segments, batch.layout, {top})[top]
        x = self.norm(activate(self.dense(states[positions]), self.activation))
        return F.linear(x, self.bert.word.weight, self.bias)

    @torch.no_grad()
    def start_head(self, frequencies: Tensor, seed: int) -> None:
        """A fresh head: BERT's initial weights, and a bias that alone predicts the word pieces' frequencies (vocab,).

        From a bias of zero, the first hundreds of steps would go by to learn no more than these.
        """
        spread = self.bert.config.initializer_range
        self.dense.weight.normal_(0.0, spread, generator=generator(seed, "encoder", "masked words"))
        self.dense.bias.zero_()
        self.bias.copy_(frequencies.log())


def frequencies(ids: Tensor, special: Tensor) -> Tensor:
    """Of word pieces as targets, (vocab,), summing to one; none is zero (add-one)."""
    counts = torch.bincount(ids.long(), minlength=len(special)).double() + 1
    counts[special.cpu()] = 1
    return (counts / counts.sum()).float()


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
        for name, low in (("vocab_size", 1), ("max_length", 4), ("steps", 0), ("batch", 8), ("every", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs must be more than 0, not {self.epochs}")
        for name in ("mask", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        self.phase()  # checks the rest

    def phase(self) -> Phase:
        """What the optimiser and its schedule need to know."""
        return Phase(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
        )


# The same for every recipe and seed, so that perplexities over one vocabulary can be compared.
_RATE, _SEED, _BATCH = 0.15, 0, 4096


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood of a masked word piece in nats, and the share of them that was predicted right."""

    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


class HeldOut:
    """Held-out sequences with masks that are always the same: 15 % of the word pieces, whatever the recipe says."""

    def __init__(self, tokenized: Tokenized, pieces: Pieces, device: torch.device) -> None:
        self.batches: list[tuple[Batch, Tensor, Tensor]] = []
        stream, lengths = generator(_SEED, "held out"), tokenized.lengths
        for rows in pack(torch.arange(len(lengths)), lengths, _BATCH):
            batch = gather(tokenized, rows, device, padded=device.type != "cpu")
            self.batches.append((batch, *mask(batch.ids, pieces, _RATE, False, stream)))

    @property
    def targets(self) -> Tensor:
        """Ids of all masked word pieces, (n,) int64."""
        return torch.cat([batch.ids[positions] for batch, _, positions in self.batches]).long()

    @torch.no_grad()
    def score(self, model: MaskedLm, autocast: bool) -> Score:
        """Without dropout; leaves the model in `train()`."""
        model.eval()
        loss, right, count = 0.0, 0, 0
        for batch, ids, positions in self.batches:
            with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
                logits = model(batch, ids, positions).float()
            targets = batch.ids[positions].long()
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(1) == targets).sum())
            count += len(targets)
        model.train()
        return Score(loss / count, right / count)

    def unigram(self, frequencies: Tensor) -> Score:
        """What the training texts' frequencies (vocab,) alone reach: the model must get below that."""
        targets = self.targets.cpu()
        guess = int(frequencies.argmax())
        return Score(float(-frequencies[targets].log().mean()), float((targets == guess).float().mean()))


_GREY = "#777777"


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A line for each evaluation on the held-out texts; empty where there is no number yet."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    write_atomic(path, file.getvalue().encode(), durable=False)


def write_png(rows: Sequence[Mapping[str, Any]], unigram: Score, path: Path) -> None:
    """Loss above, guesses that were right below; dotted what frequencies alone reach.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    from benchkit.analysis.plots import COLOURS

    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in rows]
    known = [(row["step"], row["loss"]) for row in rows if math.isfinite(row["loss"])]
    above.plot(*zip(*known, strict=True), "--", color=COLOURS[0], label="training")
    above.plot(steps, [row["held_out_loss"] for row in rows], color=COLOURS[0], label="held out")
    above.axhline(unigram.loss, color=_GREY, linestyle="dotted", label="frequencies alone, held out")
    above.set_ylabel("loss of a masked piece (nats)")
    below.plot(steps, [100 * row["held_out_accuracy"] for row in rows], color=COLOURS[0])
    below.axhline(100 * unigram.accuracy, color=_GREY, linestyle="dotted")
    below.set_ylabel("guessed right (%)")
    below.set_xlabel("step")
    below.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    last = rows[-1]
    above.set_title(f"perplexity {last['held_out_perplexity']:,.1f} after {last['epoch']:.2g} epochs", fontsize=10)
    above.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


@dataclass(frozen=True)
class Training:
    """All that a training needs.

    Attributes:
        steps, every: the recipe's, with nothing left to be worked out.
        tokenized: what is trained on; `held_out`: what is only measured on.
        autocast: compute in bf16; weights and optimiser state stay fp32.
        identity: what must be equal for a stored state to be continued.
        head: whether the head for masked words is `new` or the checkpoint's (`kept`).
        unigram: what the frequencies of the training texts' word pieces reach on the held-out ones.
    """

    recipe: Recipe
    steps: int
    every: int
    tokenized: Tokenized
    pieces: Pieces
    held_out: HeldOut
    device: torch.device
    autocast: bool
    model: MaskedLm
    tokenizer: Tokenizer
    texts: Texts
    identity: dict[str, Any]
    head: str
    unigram: Score
    memory: PeakMemory


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
    optimizers: list[dict[str, Any]] = field(default_factory=list)


def train(
    training: Training, state: State, on_evaluation: Callable[[State], None], on_step: Callable[[], None]
) -> None:
    """Train to the last step.

    Args:
        on_evaluation: gets a state whose tensors are the model's own, to be saved then and there.

    Raises:
        UserError: the loss is no longer a number; the last saved state is from before.
    """
    model, recipe, lengths = training.model, training.recipe, training.tokenized.lengths
    optimizers = _optimizers(model, recipe.weight_decay)
    if state.curve:
        model.load_state_dict(state.weights)
        for optimizer, kept in zip(optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(kept)
    else:
        _evaluate(training, optimizers, state, math.nan)
        on_evaluation(state)
    plan = batches(lengths, recipe.batch, recipe.seed, state.epoch)
    total = torch.zeros((), dtype=torch.float64, device=training.device)
    since, started = state.step, time.perf_counter()
    model.train()
    with fast_cpu_layers(model):
        while state.step < training.steps:
            if state.batch == len(plan):
                state.epoch, state.batch = state.epoch + 1, 0
                plan = batches(lengths, recipe.batch, recipe.seed, state.epoch)
            total += _step(training, optimizers, plan[state.batch], state.step)
            state.seen += int(lengths[plan[state.batch]].sum())
            state.step, state.batch = state.step + 1, state.batch + 1
            if state.step % training.every == 0 or state.step == training.steps:
                loss = float(total) / (state.step - since)  # a GPU is waited for here
                state.seconds += time.perf_counter() - started
                _evaluate(training, optimizers, state, loss)
                on_evaluation(state)
                total.zero_()
                since, started = state.step, time.perf_counter()
            on_step()


def _step(training: Training, optimizers: list[AdamW], rows: Tensor, step: int) -> Tensor:
    """One step on the word pieces hidden in `rows`; its mean loss over these."""
    recipe, model, device = training.recipe, training.model, training.device
    batch = gather(training.tokenized, rows, device, padded=device.type != "cpu")
    stream = generator(recipe.seed, "mask", step)
    ids, positions = mask(batch.ids, training.pieces, recipe.mask, recipe.whole_word, stream)
    with (
        global_stream(recipe.seed, "dropout", step),
        torch.autocast(device.type, torch.bfloat16, enabled=training.autocast),
    ):
        logits = model(batch, ids, positions)
    loss = F.cross_entropy(logits.float(), batch.ids[positions].long())
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    for optimizer in optimizers:
        optimizer.step(rate(recipe.phase(), step, training.steps))
    return loss.detach()


def _optimizers(model: MaskedLm, weight_decay: float) -> list[AdamW]:
    """As for BERT: matrices and embeddings decay, biases and norms do not."""
    parameters = list(model.parameters())
    return [
        AdamW([each for each in parameters if each.ndim > 1], weight_decay),
        AdamW([each for each in parameters if each.ndim == 1], 0.0),
    ]


def _evaluate(training: Training, optimizers: list[AdamW], state: State, loss: float) -> None:
    """Add a row to the curve and take the weights along."""
    if state.step and not math.isfinite(loss):
        raise UserError(f"the loss is {loss} by step {state.step}: take a lower --lr, or a longer --warmup")
    score = training.held_out.score(training.model, training.autocast)
    state.curve.append(
        {
            "step": state.step,
            "epoch": round(state.seen / len(training.tokenized.ids), 4),
            "learning_rate": optimizers[0].lr,
            "loss": loss,
            "held_out_loss": score.loss,
            "held_out_perplexity": score.perplexity,
            "held_out_accuracy": score.accuracy,
            "pieces": state.seen,
            "seconds": round(state.seconds, 2),
        }
    )
    state.weights = training.model.state_dict()
    state.optimizers = [optimizer.state_dict() for optimizer in optimizers]
