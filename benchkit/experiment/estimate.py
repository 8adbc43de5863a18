"""How long a run will take: from a short probe before it starts, and from its epochs while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from statistics import mean, median
from typing import Any

import torch
from torch import nn

from benchkit.core.errors import one_line
from benchkit.core.record import Parts, differences, nearest, parts_of
from benchkit.core.rng import global_stream
from benchkit.experiment.cell import Cell
from benchkit.experiment.environment import threads
from benchkit.experiment.open_cell import OpenCell
from benchkit.experiment.session import Session
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.training.batches import Part
from benchkit.training.cuda_graphs import make_steps
from benchkit.training.evaluation import PhaseContext, Reader, evaluate
from benchkit.training.fast_cpu import fast_cpu_layers
from benchkit.training.optimizer import AdamW


@dataclass
class Eta:
    """Follows a run's events.

    Attributes:
        cells: by key, `{"head", "phases": {name: epochs}, "done"}` as a `plan` event lists them.
        jobs: cells that run at once.
    """

    cells: Mapping[str, Mapping[str, Any]]
    jobs: int
    _epochs: dict[tuple[str, str], int] = field(default_factory=dict)
    _seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)

    def epoch(self, key: str, phase: str, epoch: int, seconds: float) -> None:
        """A cell has finished an epoch; `seconds` is what the phase took so far."""
        for earlier, epochs in self.cells[key]["phases"].items():  # a resumed cell does not report those again
            if earlier == phase:
                break
            self._epochs[key, earlier] = epochs
        self._epochs[key, phase] = epoch
        self._seconds.setdefault((self.cells[key]["head"], phase), []).append(seconds / epoch)

    def end(self, key: str) -> None:
        self._ended.add(key)

    def left(self) -> tuple[float, bool]:
        """Seconds left, and whether every part of it is known; parts of which nothing has run yet count as nothing."""
        each, known = [0.0], True
        for key, cell in self.cells.items():
            if cell["done"] or key in self._ended:
                continue
            seconds = 0.0
            for phase, epochs in cell["phases"].items():
                one = self._per_epoch(cell["head"], phase)
                remaining = epochs - self._epochs.get((key, phase), 0)
                known = known and (one is not None or not remaining)
                seconds += remaining * (one or 0.0)
            each.append(seconds)
        return max(sum(each) / self.jobs, max(each)), known

    def _per_epoch(self, head: str, phase: str) -> float | None:
        """Mean seconds of this head's epochs in a phase; of all heads' where it has had none."""
        own = self._seconds.get((head, phase))
        others = [value for (_, name), values in self._seconds.items() if name == phase for value in values]
        return mean(own) if own else mean(others) if others else None


def clock(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_TEXTS = 256
_SHOWN = 3  # differences between a cell and one that is stored
_EXAMPLES = 512  # scored a task
_STEPS = 6  # timed a head and phase, after as many to warm up; fewer where an epoch has fewer


def describe(session: Session) -> Iterator[str]:
    """Lines that say which cells there are, what is done and cached, and the time the rest would take."""
    plan, done = session.plan, session.finished()
    pending = [cell for cell in session.cells if cell.key not in done]
    yield f"{len(session.cells)} cells in {plan.out}: {len(done)} finished, {len(pending)} to run"
    for cell in session.cells:
        state = f"finished ({done[cell.key].status})" if cell.key in done else "to run"
        yield f"  {cell.key}  {cell.label:<24} {state}"
        if cell.key not in done:
            yield from _apart(cell, session)
    if not pending:
        yield "nothing to do: the run would print its table at once"
        return
    encode = 0.0
    corpus = session.workspace.corpus(plan.data, plan.protocol)
    for settings in session.feature_settings(pending):
        missing = session.workspace.missing(plan.encoder, corpus, settings)
        encode += missing * _encode_seconds(session, settings) if missing else 0.0
        total = len(corpus.inputs)
        yield f"features ({settings.reads}): {total - missing:,} of {total:,} texts are stored"
    jobs = min(plan.jobs, len(pending))
    try:
        seconds = [_phase_seconds(session, cell, phase) for cell in pending for phase in cell.protocol.phases]
        train = sum(seconds) / jobs
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        yield f"no estimate of the time to train: a step raised {one_line(error)}"
        return
    yield f"estimated time: {clock(encode)} to encode, {clock(train)} to train, {jobs} cells at once"


def _apart(cell: Cell, session: Session) -> Iterator[str]:
    """Why a cell is to run though one like it is stored: what sets the two apart."""
    stored = session.workspace.once(("stored", session.store.root), session.stored)
    parts = Parts(cell.identity, cell.sources)
    near = nearest(parts, stored)
    if near is not None and near.key != cell.key:
        found = differences(parts_of(near), parts)
        yield f"      unlike the stored {near.key} in {'; '.join(found[:_SHOWN])}"
        if len(found) > _SHOWN:
            yield f"      and {len(found) - _SHOWN} more fields: benchkit explain {near.key}"


def _encode_seconds(session: Session, settings: FeatureSettings) -> float:
    """Seconds a text, measured on an even sample of the corpus."""
    plan = session.plan
    encoder, corpus = (session.workspace.encoder(plan.encoder), session.workspace.corpus(plan.data, plan.protocol))
    sample = corpus.inputs[:: max(1, len(corpus.inputs) // _TEXTS)]
    tokenized = encoder.tokenize(sample, plan.protocol.max_length)
    encode_table(encoder, tokenized, settings)
    started = time.perf_counter()
    encode_table(encoder, encoder.tokenize(sample, plan.protocol.max_length), settings)
    return (time.perf_counter() - started) / len(sample)


def _phase_seconds(session: Session, cell: Cell, phase: str) -> float:
    """A phase's steps and its evaluations, at the speed of a few of either."""
    settings = cell.protocol.phase(phase)
    probe = session.workspace.once(("probe", cell.head, phase), lambda: _probe(session, cell, phase))
    evaluated = probe.dev * settings.epochs + probe.examples
    return probe.step * probe.steps * settings.epochs + probe.evaluation * evaluated


@dataclass(frozen=True)
class _Probe:
    """What a phase of a head was found to take.

    Attributes:
        step: seconds of an optimiser step, `steps` of them an epoch.
        evaluation: seconds to score an example; `dev` of them after each epoch, `examples` of all splits at the end.
    """

    step: float
    steps: int
    evaluation: float
    dev: int
    examples: int


def _probe(session: Session, cell: Cell, phase: str) -> _Probe:
    """Take a few steps as the cell would, on weights that are thrown away, and score a few examples."""
    opened = OpenCell.of(cell, session.workspace)
    order, parts = opened.order(phase), opened.corpus.parts
    rounds = list(islice(order.rounds(list(order.epoch(1))), 2 * _STEPS))
    dev = {name: parts[name, "dev"].first(_EXAMPLES) for name in opened.tasks}
    used = [parts[task, "train"].rows[each].flatten() for batches in rounds for task, each in batches]
    used += [part.rows.flatten() for part in dev.values()]
    reader = opened.reader(phase, only=torch.unique(torch.cat(used)))
    context, modules = opened.context(phase), opened.modules(phase)
    steps = make_steps(context, modules.train(), reader, AdamW(modules.parameters(), weight_decay=0.0))
    # A graph is captured in a second pass over the same steps; one by one, each step tells what the next will take.
    passes = [rounds] * 4 if context.graphs else [[together] for together in rounds]
    seconds = []
    with threads(cell.execution.threads), global_stream(cell.seed, "probe"), fast_cpu_layers(modules):
        for few in passes:
            taken = _timed(partial(steps.epoch, few, [0.0] * len(few)), opened.device)
            seconds.append(taken / len(few))
    steps.close()
    with threads(cell.execution.threads):
        evaluation = _timed(lambda: _evaluate(context, opened.head, reader, dev), opened.device)
    return _Probe(
        step=median(seconds[len(seconds) // 2 :]),
        steps=order.steps(),
        evaluation=evaluation / sum(len(part) for part in dev.values()),
        dev=sum(len(part) for (_, split), part in parts.items() if split == "dev"),
        examples=sum(len(part) for part in parts.values()),
    )


def _evaluate(context: PhaseContext, head: nn.Module, reader: Reader, parts: Mapping[str, Part]) -> None:
    snapshot = reader.snapshot(torch.unique(torch.cat([part.rows.flatten() for part in parts.values()])))
    for name, part in parts.items():
        evaluate(head, snapshot, part, context.tasks[name], context.shapes[name], context.losses[name])


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
