"""One phase of multitask training: a step a batch or a step a round, the best epoch kept by the mean of dev metrics.

Phase 1 reads stored features of a frozen encoder, phase 2 a live encoder that is trained along; the loop is the same.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchkit.core.record import CurvePoint
from benchkit.core.rng import global_stream
from benchkit.training.batches import hash_order
from benchkit.training.cuda_graphs import make_steps
from benchkit.training.evaluation import PhaseContext, Reader, collapsed, decide, evaluate
from benchkit.training.fast_cpu import fast_cpu_layers
from benchkit.training.gradients import cosines
from benchkit.training.optimizer import AdamW, Average, groups_of, rate
from benchkit.training.steps import Steps, Trained

# A phase whose training loss ends this many times above a constant prediction's, and has not fallen, has diverged.
_DIVERGED = 1.5


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
    average: dict[str, Any] = field(default_factory=dict)


def train_phase(
    context: PhaseContext, modules: nn.ModuleDict, reader: Reader, state: State, on_epoch: Callable[[State], None]
) -> State:
    """Train `modules["head"]`, and `modules["encoder"]` where it is there, to the last epoch of the phase.

    Leaves the best epoch's weights in the modules. `on_epoch` is called after each epoch with a state from which a
    later call goes on, bit for bit on a CPU; its tensors are the modules' own, to be saved then and there. Stops
    early, with `state.diverged` set, at a loss that is not finite.
    """
    settings = context.settings
    optimizer = AdamW(modules.parameters(), settings.weight_decay, groups_of(modules, settings))
    average = Average(modules, settings.average) if settings.average else None
    if state.epoch:
        modules.load_state_dict(state.weights)
        optimizer.load_state_dict(state.optimizer)
        if average:
            average.load_state_dict(state.average)
    optimizer.average = average
    steps = make_steps(context, modules, reader, optimizer)
    try:
        while state.epoch < settings.epochs and not state.diverged:
            if settings.patience and state.epoch - state.best_epoch >= settings.patience:
                break
            state.epoch += 1
            _epoch(context, modules, reader, steps, state, average)
            state.weights = modules.state_dict()
            state.optimizer = optimizer.state_dict()
            state.average = average.state_dict() if average else {}
            on_epoch(state)
    finally:
        steps.close()
    if state.best:
        modules.load_state_dict(state.best)
    return state


def _epoch(
    context: PhaseContext, modules: nn.ModuleDict, reader: Reader, steps: Steps, state: State, average: Average | None
) -> None:
    started = time.perf_counter()
    outputs = _steps(context, modules, steps, state)
    points = _train_points(context, outputs, state)
    state.train_seconds += time.perf_counter() - started

    started = time.perf_counter()
    if not state.diverged:
        with average.applied() if average else nullcontext():
            dev = _dev_points(context, modules, reader, state)
            points += dev
            score = sum(point.value for point in dev) / len(dev)
            # A head that is not trained says nothing about the epoch.
            if (score > state.best_score or context.settings.ranking_only) and not state.diverged:
                state.best_score, state.best_epoch = score, state.epoch
                state.best = {name: value.detach().clone() for name, value in modules.state_dict().items()}
    if context.interference and not state.diverged:
        state.interference += [dataclasses.asdict(each) for each in cosines(context, modules, reader, state.epoch)]
    state.curve += [dataclasses.asdict(point) for point in points]
    state.eval_seconds += time.perf_counter() - started


def _steps(context: PhaseContext, modules: nn.ModuleDict, steps: Steps, state: State) -> dict[str, Trained]:
    """All optimiser steps of an epoch; returns the results of its batches by task."""
    modules.train()
    modules["head"].train(not context.settings.ranking_only)
    batches = list(context.order.epoch(state.epoch))
    state.order_hash = hash_order(state.order_hash, batches)
    count = context.order.steps()
    first, total = (state.epoch - 1) * count, context.settings.epochs * count
    rates = [rate(context.settings, first + step, total) for step in range(count)]
    # Dropout draws from a stream of its own, seeded anew each epoch: a resumed epoch draws what it would have drawn.
    with global_stream(context.seed, "dropout", context.phase, state.epoch), fast_cpu_layers(modules):
        return steps.epoch(list(context.order.rounds(batches)), rates)


def _train_points(context: PhaseContext, kept: Mapping[str, Trained], state: State) -> list[CurvePoint]:
    """Running means over the epoch, and the verdict whether training has left the rails."""
    points = []
    for name in filter(kept.__contains__, context.tasks):  # some samplings may leave a tiny task out of an epoch
        loss = float(kept[name].losses.mean())
        predictions, _ = decide(kept[name].outputs, context.shapes[name])
        if not math.isfinite(loss):
            state.diverged = state.diverged or f"{context.phase} epoch {state.epoch}: the loss of {name} is {loss}"
            continue
        task = context.tasks[name]
        value = task.metric.score(kept[name].labels.cpu().numpy(), predictions)
        points.append(CurvePoint(context.phase, state.epoch, name, "train", task.metric.name, value, loss))
        limit = _DIVERGED * context.constant_losses[name]
        first = next((each["loss"] for each in state.curve if (each["task"], each["split"]) == (name, "train")), None)
        # A loss that is high but falls belongs to a training that was too short.
        falling = first is None or loss < first or context.settings.ranking_only
        if state.epoch == context.settings.epochs and loss > limit and not falling and not state.diverged:
            state.diverged = (
                f"{context.phase} epoch {state.epoch}, its last, has a training loss of {loss:.3g} on {name}; "
                f"a constant prediction has {context.constant_losses[name]:.3g}"
            )
    return points


def _dev_points(context: PhaseContext, modules: nn.ModuleDict, reader: Reader, state: State) -> list[CurvePoint]:
    points = []
    snapshot = reader.snapshot(context.corpus.rows("dev"))
    for name, task in context.tasks.items():
        part = context.corpus.parts[name, "dev"]
        result = evaluate(modules["head"], snapshot, part, task, context.shapes[name], context.losses[name])
        points.append(CurvePoint(context.phase, state.epoch, name, "dev", task.metric.name, result.value, result.loss))
        if not (math.isfinite(result.value) and math.isfinite(result.loss)):
            state.diverged = (
                state.diverged or f"{context.phase} epoch {state.epoch}: the dev loss of {name} is {result.loss}"
            )
        reason = collapsed(result.predictions, None if part.labels is None else part.labels.numpy(), task)
        if reason and not context.settings.ranking_only:
            state.events.append(f"{context.phase} epoch {state.epoch}: {reason} on dev")
    return points
