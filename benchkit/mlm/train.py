"""The loop of a pre-training: it can be left after any look at the held-out texts and goes on as if it had not been."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchkit.encoder import Tokenized
from benchkit.encoder.batch import gather
from benchkit.errors import UserError
from benchkit.mlm.evaluate import HeldOut
from benchkit.mlm.masking import Pieces, mask
from benchkit.mlm.model import MaskedLm
from benchkit.mlm.pieces import batches
from benchkit.mlm.recipe import Recipe
from benchkit.rng import generator, global_stream
from benchkit.train.adamw import AdamW
from benchkit.train.quick import quick
from benchkit.train.schedule import rate


@dataclass(frozen=True)
class Work:
    """What is trained on, and how.

    Attributes:
        steps, every: the recipe's, with nothing left to be worked out.
        autocast: compute in bf16; weights and optimiser state stay fp32.
    """

    recipe: Recipe
    steps: int
    every: int
    tokenized: Tokenized
    pieces: Pieces
    held_out: HeldOut
    device: torch.device
    autocast: bool


@dataclass
class State:
    """Everything a training needs to go on; tensors and plain values only.

    Attributes:
        step: steps done; epoch, batch: where in the texts the next one begins.
        seconds, seen: spent in steps, and word pieces gone through in them.
        curve: a row for each look at the held-out texts.
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
    work: Work, model: MaskedLm, state: State, on_look: Callable[[State], None], on_step: Callable[[int], None]
) -> None:
    """Train to the last step. `on_look` gets a state whose tensors are the model's own, to be saved then and there.

    Raises:
        UserError: the loss is no longer a number; the last saved state is from before.
    """
    optimizers = _optimizers(model, work.recipe.weight_decay)
    if state.step:
        model.load_state_dict(state.weights)
        for optimizer, kept in zip(optimizers, state.optimizers, strict=True):
            optimizer.load_state_dict(kept)
    else:
        _look(work, model, optimizers, state, math.nan)
        on_look(state)
    lengths, recipe = work.tokenized.lengths, work.recipe
    plan = batches(lengths, recipe.batch, recipe.seed, state.epoch)
    total = torch.zeros((), dtype=torch.float64, device=work.device)
    since, started = state.step, time.perf_counter()
    model.train()
    with quick(model):
        while state.step < work.steps:
            if state.batch == len(plan):
                state.epoch, state.batch = state.epoch + 1, 0
                plan = batches(lengths, recipe.batch, recipe.seed, state.epoch)
            total += _step(work, model, optimizers, plan[state.batch], state.step)
            state.seen += int(lengths[plan[state.batch]].sum())
            state.step, state.batch = state.step + 1, state.batch + 1
            if state.step % work.every == 0 or state.step == work.steps:
                loss = float(total) / (state.step - since)  # a GPU is waited for here
                state.seconds += time.perf_counter() - started
                _look(work, model, optimizers, state, loss)
                on_look(state)
                total.zero_()
                since, started = state.step, time.perf_counter()
            on_step(state.step)


def _step(work: Work, model: MaskedLm, optimizers: list[AdamW], rows: Tensor, step: int) -> Tensor:
    """One step on the word pieces hidden in `rows`; its mean loss over these."""
    recipe = work.recipe
    batch = gather(work.tokenized, rows, work.device, padded=work.device.type != "cpu")
    stream = generator(recipe.seed, "mask", step)
    ids, positions = mask(batch.ids, work.pieces, recipe.mask, recipe.whole_word, stream)
    with (
        global_stream(recipe.seed, "dropout", step),
        torch.autocast(work.device.type, torch.bfloat16, enabled=work.autocast),
    ):
        logits = model(batch, ids, positions)
    loss = F.cross_entropy(logits.float(), batch.ids[positions].long())
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    for optimizer in optimizers:
        optimizer.step(rate(recipe.phase(), step, work.steps))
    return loss.detach()


def _optimizers(model: MaskedLm, weight_decay: float) -> list[AdamW]:
    """As for BERT: matrices and embeddings decay, biases and norms do not."""
    parameters = list(model.parameters())
    return [
        AdamW([each for each in parameters if each.ndim > 1], weight_decay),
        AdamW([each for each in parameters if each.ndim == 1], 0.0),
    ]


def _look(work: Work, model: MaskedLm, optimizers: list[AdamW], state: State, loss: float) -> None:
    """Add a row to the curve and take the weights along."""
    if state.step and not math.isfinite(loss):
        raise UserError(f"the loss is {loss} by step {state.step}: take a lower --lr, or a longer --warmup")
    score = work.held_out.score(model, work.autocast)
    state.curve.append(
        {
            "step": state.step,
            "epoch": round(state.seen / len(work.tokenized.ids), 4),
            "learning_rate": optimizers[0].lr,
            "loss": loss,
            "held_out_loss": score.loss,
            "held_out_perplexity": score.perplexity,
            "held_out_accuracy": score.accuracy,
            "pieces": state.seen,
            "seconds": round(state.seconds, 2),
        }
    )
    state.weights = model.state_dict()
    state.optimizers = [optimizer.state_dict() for optimizer in optimizers]
