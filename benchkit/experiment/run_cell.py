"""Running one cell: from its data to its record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.core.head import parameter_counts
from benchkit.core.record import Cosine, CurvePoint, Failure, FailureKind, PhaseResult, Record, Score, Status
from benchkit.core.task import SPLITS, TaskSpec
from benchkit.experiment.cell import Cell
from benchkit.experiment.environment import PeakMemory, environment, threads
from benchkit.experiment.open_cell import OpenCell
from benchkit.experiment.workspace import Data, Workspace
from benchkit.store.cells import CellStore
from benchkit.training.evaluation import Evaluation, PhaseContext, Reader, collapsed, evaluate
from benchkit.training.loop import State, train_phase


def result_of(cell: Cell, store: CellStore) -> Record | None:
    """The record of a cell that need not run.

    A cell is run again if its record lacks something that is asked for, or if its encoder was not stored although all
    are to be stored.
    """
    done = store.load(cell.key)
    lacks_encoder = cell.keeps_encoder and cell.kept_encoder == "all" and not store.has_encoder(cell.key)
    if not cell.answered(done) or lacks_encoder:
        return None
    return done


def failed(cell: Cell, error: Exception, phase: str = "") -> Record:
    """The record of a cell that could not be run, with the reason in one line."""
    kind: FailureKind = "input" if isinstance(error, UserError) else "head"
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        kind, text = "out_of_memory", out_of_memory(cell)
    elif kind == "head":
        text = f"head {cell.head!r} raised {type(error).__name__}: {text}"
    return unfinished(cell, Failure(kind, phase, text))


def unfinished(cell: Cell, failure: Failure | None, status: Status = "failed") -> Record:
    """The record of a cell without results."""
    made = environment(cell.execution)
    return Record(cell.key, cell.head, cell.seed, status, cell.identity, environment=made, failure=failure,
                  sources=cell.sources)  # fmt: skip


def out_of_memory(cell: Cell) -> str:
    """What to say when memory ran out: names the batch sizes."""
    sizes = ", ".join(f"{name}.batch_size={cell.protocol.phase(name).batch_size}" for name in cell.protocol.phases)
    return f"out of memory on {cell.execution.device} with {sizes}; --set a smaller one (it is never shrunk for you)"


def splits_of(data: Data) -> dict[str, Any]:
    """Rows, source, sha256 of the file and broken rows of each split, by task."""
    return {
        task: {
            name: {"rows": len(s), "source": s.source, "sha256": s.sha256, "broken": len(s.broken)}
            for name, s in splits.items()
        }
        for task, splits in data.items()
    }


@dataclass(frozen=True)
class TrialResult:
    """The results on dev of a cell that cannot see test.

    Attributes:
        states: one for each phase, without weights.
        parameters: see `parameter_counts`.
    """

    states: tuple[State, ...]
    parameters: Mapping[str, int]


@dataclass
class Predictions:
    """One row an example of dev and test, as columns.

    Attributes:
        label: None where the split is unlabelled.
        prediction: class index, or score in the label range.
        score: probability of the predicted class; a regression's prediction.
    """

    task: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    id: list[str] = field(default_factory=list)
    label: list[float | None] = field(default_factory=list)
    prediction: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)

    def columns(self) -> dict[str, list[Any]]:
        return dict(vars(self))

    def add(self, task: str, split: str, ids: Sequence[str], labels: Sequence[float | None], found: Evaluation) -> None:
        self.task += [task] * len(ids)
        self.split += [split] * len(ids)
        self.id += ids
        self.label += labels
        self.prediction += found.predictions.astype(float).tolist()
        self.score += found.scores.tolist()

    def collapse(self, task: TaskSpec) -> str:
        """Why the task's dev predictions are worthless, or ""."""
        rows = zip(self.task, self.split, self.prediction, self.label, strict=True)
        dev = [(value, label) for name, split, value, label in rows if (name, split) == (task.name, "dev")]
        predictions, labels = np.array([value for value, _ in dev]), [label for _, label in dev]
        known = None if None in labels else np.array(labels, dtype=float)
        return collapsed(predictions, known, task)


def score_splits(context: PhaseContext, head: nn.Module, reader: Reader) -> tuple[tuple[Score, ...], Predictions]:
    """Score every split. This is the only place that reads test, once per phase."""
    scores, predictions = [], Predictions()
    for split in SPLITS:
        if split not in context.corpus.splits():
            continue
        snapshot = reader.snapshot(context.corpus.rows(split))
        for name, task in context.tasks.items():
            part = context.corpus.parts.get((name, split))
            if part is None:
                continue
            found = evaluate(head, snapshot, part, task, context.shapes[name], context.losses[name])
            if part.labels is not None:
                scores.append(Score(name, split, task.metric.name, found.value, found.loss, len(part)))
            if split != "train":
                labels = [None] * len(part) if part.labels is None else part.labels.double().tolist()
                predictions.add(name, split, part.ids, labels, found)
    return tuple(scores), predictions


Event = dict[str, Any]
Emit = Callable[[Event], None]
Watch = Callable[[State], None]
"""Sees the state of a phase after each epoch; what it raises ends the training."""


class Busy(Exception):
    """Another process is working on the cell."""


def execute(cell: Cell, workspace: Workspace, store: CellStore, emit: Emit, *, wait: bool = True) -> Record:
    """Run a cell, or the rest of an interrupted one, and store its record.

    An exception of a head becomes the record of a failed cell, so that the other cells continue.

    Args:
        wait: wait for another process that runs the same cell, and use its record.

    Raises:
        Busy: another process runs the cell, and `wait` is false.
    """
    waiting = {"event": "log", "line": f"{cell.label}: another run is working on this cell; waiting for its result"}
    with store.lock(cell.key, wait=wait, on_wait=lambda: emit(waiting)) as mine:
        if not mine:
            raise Busy(cell.key)
        done = result_of(cell, store)
        if done is not None:
            return done
        run = _Run(cell, workspace, store, emit)
        emit({"event": "start", "key": cell.key})
        try:
            with threads(cell.execution.threads):
                return run.finish()
        except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
            record = failed(cell, error, run.phase)
            store.save(record, Predictions().columns(), {})
            if record.failure and record.failure.kind != "input":
                emit({"event": "log", "line": f"{cell.label}: the traceback is in {store.note(cell.key, error)}"})
            return record


def explore(cell: Cell, workspace: Workspace, watch: Watch) -> TrialResult:
    """Train a cell as `execute` would, without looking at test, and store nothing.

    Training ends with the phase in which it diverged; `watch` may end it earlier.

    Raises:
        ValueError: the cell may read test.
        Exception: any exception of the head or of `watch`.
    """
    if "test" in cell.splits:
        raise ValueError(f"a cell that is tried out must be blind to test, this one may look at {cell.splits}")
    states: list[State] = []
    with threads(cell.execution.threads):
        opened = OpenCell.of(cell, workspace)
        for phase in cell.protocol.phases:
            state = train_phase(opened.context(phase), opened.modules(phase), opened.reader(phase), State(phase), watch)
            opened.close_phase(phase)
            states.append(dataclasses.replace(state, best={}, weights={}, optimizer={}, average={}))
            if state.diverged:
                break
    return TrialResult(tuple(states), parameter_counts(opened.head, opened.assembly.spec.trunk))


@dataclass
class _Run:
    """A cell that is being run.

    Attributes:
        phase: the phase that is being run.
    """

    cell: Cell
    workspace: Workspace
    store: CellStore
    emit: Emit
    phase: str = ""

    def finish(self) -> Record:
        """Run all phases, starting at the last checkpoint if there is one; store and return the record."""
        cell, memory = self.cell, PeakMemory(torch.device(self.cell.execution.device))
        opened = OpenCell.of(cell, self.workspace, self._log)
        saved = self.store.load_checkpoint(cell.key) or {}
        done = [PhaseResult.from_dict(each) for each in saved.get("done", [])]
        predictions = Predictions(**saved.get("predictions", {}))
        state = State(**saved["state"]) if saved.get("state") else None
        diverged = ""
        if saved.get("weights"):
            opened.all_modules().load_state_dict(saved["weights"])
        for self.phase in cell.protocol.phases[len(done) :]:
            result, predictions, diverged = self._phase(opened, state or State(self.phase), done)
            state = None  # the next phase begins with its first epoch
            opened.close_phase(self.phase)
            done.append(result)
            if diverged:
                break
            self._checkpoint(opened, done, None, predictions)
        record = self._record(opened, done, diverged, predictions)
        record = dataclasses.replace(record, peak_memory_bytes=memory.read())
        weights = {f"head.{name}": value for name, value in opened.head.state_dict().items()}
        encoder = self._kept(opened.encoder.model) if cell.keeps_encoder and record.status != "diverged" else None
        self.store.save(record, predictions.columns(), weights, encoder, cell.kept_encoder)
        return self.store.load(cell.key) or record

    def _kept(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of a fine-tuned encoder as they are stored. Vectors are always in fp32, since they are small."""
        half = self.cell.encoder_dtype == "bf16"
        return {name: each.bfloat16() if half and each.ndim > 1 else each for name, each in model.state_dict().items()}

    def _phase(
        self, opened: OpenCell, state: State, done: Sequence[PhaseResult]
    ) -> tuple[PhaseResult, Predictions, str]:
        """Train one phase and score it. The last value says why it diverged, or is ""."""
        context, reader = opened.context(self.phase), opened.reader(self.phase)

        def on_epoch(state: State) -> None:
            self._checkpoint(opened, done, state, Predictions())
            event = {"event": "epoch", "key": self.cell.key, "phase": self.phase, "epoch": state.epoch}
            self.emit({**event, "seconds": state.train_seconds + state.eval_seconds, "score": state.best_score})

        state = train_phase(context, opened.modules(self.phase), reader, state, on_epoch)
        started = time.perf_counter()
        scores, predictions = ((), Predictions()) if state.diverged else score_splits(context, opened.head, reader)
        state.eval_seconds += time.perf_counter() - started
        result = PhaseResult(
            name=self.phase,
            epochs=state.epoch,
            best_epoch=state.best_epoch,
            steps=state.epoch * context.order.steps(),
            batch_size=context.settings.batch_size,
            order_hash=state.order_hash,
            train_seconds=state.train_seconds,
            eval_seconds=state.eval_seconds,
            scores=scores,
            curve=tuple(CurvePoint(**each) for each in state.curve),
            events=tuple(state.events),
            interference=tuple(Cosine(**each) for each in state.interference) if context.interference else None,
        )
        return result, predictions, state.diverged

    def _record(self, opened: OpenCell, done: Sequence[PhaseResult], diverged: str, predictions: Predictions) -> Record:
        """The record of a cell that was trained to the end or diverged."""
        cell, encoder = self.cell, opened.encoder
        collapses = [reason for task in opened.tasks.values() if (reason := predictions.collapse(task))]
        status: Status = "diverged" if diverged else "collapsed" if collapses else "ok"
        kind: FailureKind = "diverged" if diverged else "collapsed"
        failure = Failure(kind, self.phase, diverged or "; ".join(collapses)) if status != "ok" else None
        return dataclasses.replace(
            unfinished(cell, failure, status),
            parameters={**parameter_counts(opened.head, opened.assembly.spec.trunk), "encoder": encoder.parameters},
            data={"name": cell.data, "splits": splits_of(self.workspace.data(cell.data, cell.protocol))},
            encoder={
                "name": encoder.name,
                "fingerprint": cell.identity["encoder"],  # its weights may have been trained since
                "notes": list(encoder.notes),
                "config": dataclasses.asdict(encoder.config),
            },
            phases=tuple(done),
        )

    def _checkpoint(
        self, opened: OpenCell, done: Sequence[PhaseResult], state: State | None, predictions: Predictions
    ) -> None:
        self.store.save_checkpoint(
            self.cell.key,
            {
                "done": [dataclasses.asdict(each) for each in done],
                "state": dict(vars(state)) if state else None,
                # A state has the weights that its phase trains; what earlier phases trained besides is kept too.
                "weights": None if state and self._state_is_all(opened) else opened.all_modules().state_dict(),
                "predictions": predictions.columns(),
            },
        )

    def _state_is_all(self, opened: OpenCell) -> bool:
        """Whether the running phase trains all that any phase of the cell changes."""
        trained = {id(each) for each in opened.modules(self.phase).parameters()}
        return trained >= {id(each) for each in opened.all_modules().parameters()}

    def _log(self, line: str) -> None:
        self.emit({"event": "log", "line": f"{self.cell.label}: {line}"})
