"""One phase of multitask training: a step a batch or a step a round, the best epoch kept by the mean of dev metrics.

Phase 1 reads stored features of a frozen encoder, phase 2 a live encoder that is trained along; the loop is the same.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchkit.protocol import Phase
from benchkit.record import CurvePoint
from benchkit.rng import global_stream
from benchkit.task import Loss, TaskShape, TaskSpec
from benchkit.train.adamw import AdamW
from benchkit.train.corpus import Corpus
from benchkit.train.evaluate import Reader, collapsed, decide, evaluate, forward
from benchkit.train.interference import cosines
from benchkit.train.order import Batch, Order, OrderHash
from benchkit.train.quick import quick
from benchkit.train.readers import gather_together
from benchkit.train.schedule import rate

# A head that ends a phase with a training loss this much above a constant prediction's has not learnt: it has diverged.
_DIVERGED = 1.5
# Steps between looks at the loss: each look makes a GPU wait.
_LOOK = 100


@dataclass(frozen=True)
class Work:
    """What one phase of one cell trains on.

    Attributes:
        constant_losses: by task, the loss of the best constant prediction on train.
        autocast: run the encoder's forward in bf16; weights and optimiser state stay fp32.
        interference: measure after each epoch how the tasks' gradients agree.
    """

    phase: str
    settings: Phase
    tasks: Mapping[str, TaskSpec]
    shapes: Mapping[str, TaskShape]
    losses: Mapping[str, Loss]
    constant_losses: Mapping[str, float]
    corpus: Corpus
    order: Order
    seed: int
    device: torch.device
    autocast: bool = False
    interference: bool = False


@dataclass
class State:
    """Everything a phase needs to go on after its last finished epoch; tensors and plain values only."""

    phase: str
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf
    best: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    order_hash: str = ""
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    interference: list[dict[str, Any]] = field(default_factory=list)
    diverged: str = ""


def train_phase(
    work: Work,
    modules: nn.ModuleDict,
    reader: Reader,
    state: State,
    on_epoch: Callable[[State], None],
) -> State:
    """Train `modules["head"]`, and `modules["encoder"]` where it is there, to the last epoch of the phase.

    Leaves the best epoch's weights in the modules. `on_epoch` is called after each epoch with a state from which a
    later call goes on, bit for bit on a CPU; its tensors are the modules' own, to be saved then and there. Stops
    early, with `state.diverged` set, at a loss that is not finite.
    """
    optimizer = AdamW(modules.parameters(), work.settings.weight_decay)
    if state.epoch:
        modules.load_state_dict(state.weights)
        optimizer.load_state_dict(state.optimizer)
    while state.epoch < work.settings.epochs and not state.diverged:
        state.epoch += 1
        _epoch(work, modules, reader, optimizer, state)
        state.weights = modules.state_dict()
        state.optimizer = optimizer.state_dict()
        on_epoch(state)
    if state.best:
        modules.load_state_dict(state.best)
    return state


def _epoch(work: Work, modules: nn.ModuleDict, reader: Reader, optimizer: AdamW, state: State) -> None:
    started = time.perf_counter()
    outputs = _steps(work, modules, reader, optimizer, state)
    points = _train_points(work, outputs, state)
    state.train_seconds += time.perf_counter() - started

    started = time.perf_counter()
    if not state.diverged:
        dev = _dev_points(work, modules, reader, state)
        points += dev
        score = sum(point.value for point in dev) / len(dev)
        if score > state.best_score and not state.diverged:
            state.best_score, state.best_epoch = score, state.epoch
            state.best = {name: value.detach().clone() for name, value in modules.state_dict().items()}
    if work.interference and not state.diverged:
        state.interference += [dataclasses.asdict(each) for each in cosines(work, modules, reader, state.epoch)]
    state.curve += [dataclasses.asdict(point) for point in points]
    state.eval_seconds += time.perf_counter() - started


Result = tuple[Tensor, Tensor, Tensor]
"""Of one batch: outputs, labels, loss; without gradients."""


def _steps(
    work: Work, modules: nn.ModuleDict, reader: Reader, optimizer: AdamW, state: State
) -> dict[str, list[Result]]:
    """All optimiser steps of an epoch; returns the results of its batches by task."""
    seen = OrderHash(state.order_hash)
    modules.train()
    batches = list(work.order.epoch(state.epoch))
    seen.epoch(batches)
    state.order_hash = seen.state
    steps = work.order.steps()
    first, total = (state.epoch - 1) * steps, work.settings.epochs * steps
    kept: dict[str, list[Result]] = {name: [] for name in work.tasks}
    # Dropout draws from a stream of its own, seeded anew each epoch: a resumed epoch draws what it would have drawn.
    with global_stream(work.seed, "dropout", work.phase, state.epoch), quick(modules):
        for step, together in enumerate(work.order.rounds(batches)):
            lr = rate(work.settings, first + step, total)
            results = take_step(work, modules, reader, optimizer, together, lr)
            for (task, _), result in zip(together, results, strict=True):
                kept[task].append(result)
            if step % _LOOK == 0 and not all(torch.isfinite(loss) for _, _, loss in results):
                break  # the epoch's verdict names the task; the rest of it would be lost time
    return kept


def take_step(
    work: Work, modules: nn.ModuleDict, reader: Reader, optimizer: AdamW, batches: Sequence[Batch], lr: float
) -> list[Result]:
    """One optimiser step down the sum of the batches' losses, their features by one pass of the encoder."""
    parts = [work.corpus.parts[task, "train"] for task, _ in batches]
    with torch.autocast(work.device.type, torch.bfloat16, enabled=work.autocast):
        rows = [part.rows[examples] for part, (_, examples) in zip(parts, batches, strict=True)]
        features = gather_together(reader, rows)
    results, losses = [], []
    for part, (task, examples), given in zip(parts, batches, features, strict=True):
        assert part.labels is not None
        labels = part.labels[examples].to(work.device)
        outputs = forward(modules["head"], given, work.shapes[task], len(examples))
        losses.append(work.losses[task](outputs, labels, work.shapes[task]))
        results.append((outputs.detach(), labels, losses[-1].detach()))
    optimizer.zero_grad()
    sum(losses[1:], losses[0]).backward()  # type: ignore[no-untyped-call]
    if work.settings.clip:
        torch.nn.utils.clip_grad_norm_(optimizer.parameters, work.settings.clip)
    optimizer.step(lr)
    return results


def _train_points(work: Work, kept: Mapping[str, Sequence[Result]], state: State) -> list[CurvePoint]:
    """Running means over the epoch, and the verdict whether training has left the rails."""
    points = []
    for name, batches in kept.items():
        if not batches:  # round robin and annealed sampling may leave a tiny task out of an epoch
            continue
        outputs, labels, losses = (list(column) for column in zip(*batches, strict=True))
        loss = float(torch.stack(losses).mean())
        predictions, _ = decide(torch.cat(outputs), work.shapes[name])
        if not math.isfinite(loss):
            state.diverged = state.diverged or f"{work.phase} epoch {state.epoch}: the loss of {name} is {loss}"
            continue
        task = work.tasks[name]
        value = task.metric.score(torch.cat(labels).cpu().numpy(), predictions)
        points.append(CurvePoint(work.phase, state.epoch, name, "train", task.metric.name, value, loss))
        limit = _DIVERGED * work.constant_losses[name]
        if state.epoch == work.settings.epochs and loss > limit and not state.diverged:
            state.diverged = (
                f"{work.phase} epoch {state.epoch}, its last, has a training loss of {loss:.3g} on {name}; "
                f"a constant prediction has {work.constant_losses[name]:.3g}"
            )
    return points


def _dev_points(work: Work, modules: nn.ModuleDict, reader: Reader, state: State) -> list[CurvePoint]:
    points = []
    snapshot = reader.snapshot(work.corpus.rows("dev"))
    for name, task in work.tasks.items():
        part = work.corpus.parts[name, "dev"]
        result = evaluate(modules["head"], snapshot, part, task, work.shapes[name], work.losses[name])
        points.append(CurvePoint(work.phase, state.epoch, name, "dev", task.metric.name, result.value, result.loss))
        if not (math.isfinite(result.value) and math.isfinite(result.loss)):
            state.diverged = (
                state.diverged or f"{work.phase} epoch {state.epoch}: the dev loss of {name} is {result.loss}"
            )
        reason = collapsed(result.predictions, task)
        if reason:
            state.events.append(f"{work.phase} epoch {state.epoch}: {reason} on dev")
    return points
