"""Records of cells that ended, well or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.core.head import HeadSpec, parameter_counts
from benchkit.core.record import Cosine, CurvePoint, PhaseResult, Record, Score, Status
from benchkit.core.rng import global_stream
from benchkit.core.task import SPLITS, Loss, TaskShape, TaskSpec
from benchkit.encoder import Encoder
from benchkit.experiment.cell import Cell, loss_name
from benchkit.experiment.companions import baseline_loss
from benchkit.experiment.environment import environment, peak_memory, threads
from benchkit.experiment.workspace import Data, Workspace, build_head, feature_settings
from benchkit.store.cells import CellStore
from benchkit.store.features import FeatureSettings, encode_table
from benchkit.store.table import FeatureTable
from benchkit.training.batches import Corpus, Order
from benchkit.training.evaluation import Evaluation, Reader, Work, collapsed, evaluate
from benchkit.training.loop import State, train_phase
from benchkit.training.readers import LiveReader, StoredReader
from benchkit.turns import own_time


def result_of(cell: Cell, store: CellStore) -> Record | None:
    """The record of a cell that need not run.

    One that does not answer all that is asked is run again, and so is one whose encoder is to be kept and was not.
    """
    done = store.load(cell.key)
    if not cell.answered(done) or (cell.keeps_encoder and not store.has_encoder(cell.key)):
        return None
    return done


def finished(
    cell: Cell,
    data: Data,
    encoder: Encoder,
    parameters: dict[str, int],
    phases: Sequence[PhaseResult],
    *,
    diverged: str,
    collapses: Sequence[str],
) -> Record:
    """The record of a cell that ran to its end, or until its training diverged."""
    error = diverged or "; ".join(collapses)
    status: Status = "diverged" if diverged else "collapsed" if error else "ok"
    return Record(
        key=cell.key,
        head=cell.head,
        seed=cell.seed,
        status=status,
        identity=cell.identity,
        sources=cell.sources,
        parameters=parameters,
        environment=environment(cell.execution),
        data={"name": cell.data, "splits": splits_of(data)},
        encoder={
            "name": encoder.name,
            "fingerprint": cell.identity["encoder"],  # its weights may have been trained since
            "notes": list(encoder.notes),
            "config": dataclasses.asdict(encoder.config),
        },
        phases=tuple(phases),
        error=error,
        peak_memory_bytes=peak_memory(torch.device(cell.execution.device)),
    )


def failed(cell: Cell, error: Exception) -> Record:
    """The record of a cell that could not be run, with the reason in one line."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        text = out_of_memory(cell)
    elif not isinstance(error, UserError):
        text = f"head {cell.head!r} raised {type(error).__name__}: {text}"
    return Record(
        key=cell.key,
        head=cell.head,
        seed=cell.seed,
        status="failed",
        identity=cell.identity,
        sources=cell.sources,
        environment=environment(cell.execution),
        error=text,
    )


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
    """What trying a cell out showed, on dev.

    Attributes:
        states: one for each phase, its weights dropped.
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
        rows = zip(self.task, self.split, self.prediction, strict=True)
        return collapsed(np.array([value for name, split, value in rows if (name, split) == (task.name, "dev")]), task)


def score_splits(work: Work, head: nn.Module, reader: Reader) -> tuple[tuple[Score, ...], Predictions]:
    """Score every split; test is looked at here and nowhere else, once a phase."""
    scores, predictions = [], Predictions()
    for split in SPLITS:
        if split not in work.corpus.splits():
            continue
        snapshot = reader.snapshot(work.corpus.rows(split))
        for name, task in work.tasks.items():
            part = work.corpus.parts.get((name, split))
            if part is None:
                continue
            found = evaluate(head, snapshot, part, task, work.shapes[name], work.losses[name])
            if part.labels is not None:
                scores.append(Score(name, split, task.metric.name, found.value, found.loss, len(part)))
            if split != "train":
                labels = [None] * len(part) if part.labels is None else part.labels.double().tolist()
                predictions.add(name, split, part.ids, labels, found)
    return tuple(scores), predictions


Event = dict[str, Any]
Emit = Callable[[Event], None]


class Busy(Exception):
    """Another process is working on the cell."""


def execute(cell: Cell, workspace: Workspace, store: CellStore, emit: Emit, *, wait: bool = True) -> Record:
    """Run a cell, or what is left of it, and store its record.

    Whatever a head raises becomes the record of a failed cell, so that the other cells go on.

    Args:
        wait: wait for another process that runs the same cell, and use its record.

    Raises:
        Busy: there is such a process, and it is not to be waited for.
    """
    waiting = {"event": "log", "line": f"{cell.label}: another run is working on this cell; waiting for its result"}
    with store.lock(cell.key, wait=wait, on_wait=lambda: emit(waiting)) as mine:
        if not mine:
            raise Busy(cell.key)
        done = result_of(cell, store)
        if done is not None:
            return done
        emit({"event": "start", "key": cell.key})
        try:
            with threads(cell.execution.threads):
                return _Run.open(cell, workspace, store, emit).finish()
        except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
            record = failed(cell, error)
            store.save(record, Predictions().columns(), {})
            if not isinstance(error, UserError):
                emit({"event": "log", "line": f"{cell.label}: the traceback is in {store.note(cell.key, error)}"})
            return record


Watch = Callable[[State], None]
"""Sees the state of a phase after each epoch; what it raises ends the training."""


def explore(cell: Cell, workspace: Workspace, watch: Watch) -> TrialResult:
    """Train a cell as `execute` would, without looking at test, and store nothing.

    Ends with the phase in which training diverged, if it did; `watch` may end it sooner.

    Raises:
        ValueError: the cell is not blind to test.
        Exception: whatever the head, or `watch`, raised.
    """
    if "test" in cell.splits:
        raise ValueError(f"a cell that is tried out must be blind to test, this one may look at {cell.splits}")
    with threads(cell.execution.threads):
        return _Run.open(cell, workspace, None, lambda event: None).explore(watch)


@dataclass
class _Run:
    """One cell with everything it needs loaded. Without a store nothing of it is kept."""

    cell: Cell
    store: CellStore | None
    emit: Emit
    workspace: Workspace
    device: torch.device
    spec: HeadSpec
    config: Any
    settings: FeatureSettings
    tasks: dict[str, TaskSpec]
    shapes: dict[str, TaskShape]
    texts: Corpus  # of all splits: what features are made of, the same for every cell
    corpus: Corpus  # of the splits that the cell may look at
    encoder: Encoder
    head: nn.Module

    @staticmethod
    def open(cell: Cell, workspace: Workspace, store: CellStore | None, emit: Emit) -> _Run:
        protocol, device = cell.protocol, torch.device(cell.execution.device)
        spec = workspace.plugins.head(cell.head)
        tasks = {task.name: task for task in workspace.tasks(protocol)}
        shapes = {name: task.shape(joint=protocol.pair_input == "joint") for name, task in tasks.items()}
        texts = workspace.corpus(cell.data, protocol)
        if workspace.fingerprint(cell.encoder) != cell.identity["encoder"]:
            raise UserError(f"encoder {cell.encoder} is not the one this cell was planned with: run the command again")
        encoder = workspace.encoder(cell.encoder).to(device)
        if "finetune" in protocol.phases:  # other cells of this process share it
            encoder = encoder.copy()
        config = spec.configure(cell.config)
        settings = feature_settings(protocol, spec, encoder, cell.execution.precision, device)
        with global_stream(cell.seed, "init"):
            head = build_head(spec, config, encoder, settings, tuple(shapes.values())).to(device)
        return _Run(
            cell=cell,
            store=store,
            emit=emit,
            workspace=workspace,
            device=device,
            spec=spec,
            config=config,
            settings=settings,
            tasks=tasks,
            shapes=shapes,
            texts=texts,
            corpus=texts.only(cell.splits),
            encoder=encoder,
            head=head,
        )

    def explore(self, watch: Watch) -> TrialResult:
        """All phases, or those up to where training diverged."""
        states: list[State] = []
        for phase in self.cell.protocol.phases:
            modules = self._modules(tuned=phase == "finetune")
            state = train_phase(self._work(phase), modules, self._reader(phase), State(phase), watch)
            states.append(dataclasses.replace(state, best={}, weights={}, optimizer={}))
            if state.diverged:
                break
        return TrialResult(tuple(states), parameter_counts(self.head, self.spec.trunk))

    def finish(self) -> Record:
        """All phases, from the last checkpoint if there is one, then the record."""
        assert self.store is not None
        saved = self.store.load_checkpoint(self.cell.key) or {}
        done = [PhaseResult.from_dict(each) for each in saved.get("done", [])]
        predictions = Predictions(**saved.get("predictions", {}))
        state = State(**saved["state"]) if saved.get("state") else None
        diverged = ""
        if saved.get("weights"):
            self._modules().load_state_dict(saved["weights"])
        for phase in self.cell.protocol.phases[len(done) :]:
            result, predictions, diverged = self._phase(phase, state or State(phase), done)
            state = None  # the next phase begins with its first epoch
            done.append(result)
            if diverged:
                break
            self._checkpoint(done, None, predictions)
        weights = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        encoder = self.encoder.model.state_dict() if self.cell.keeps_encoder else None
        record = finished(
            self.cell,
            self.workspace.data(self.cell.data, self.cell.protocol),
            self.encoder,
            {**parameter_counts(self.head, self.spec.trunk), "encoder": self.encoder.parameters},
            done,
            diverged=diverged,
            collapses=[reason for task in self.tasks.values() if (reason := predictions.collapse(task))],
        )
        self.store.save(record, predictions.columns(), weights, encoder)
        return self.store.load(self.cell.key) or record

    def _phase(self, phase: str, state: State, done: list[PhaseResult]) -> tuple[PhaseResult, Predictions, str]:
        """Train one phase to its end and score it; the last value says why it diverged, or is ""."""
        work, reader = self._work(phase), self._reader(phase)

        def on_epoch(state: State) -> None:
            self._checkpoint(done, state, Predictions())
            event = {"event": "epoch", "key": self.cell.key, "phase": phase, "epoch": state.epoch}
            self.emit({**event, "seconds": state.train_seconds + state.eval_seconds, "score": state.best_score})

        modules = self._modules(tuned=phase == "finetune")
        state = train_phase(work, modules, reader, state, on_epoch)
        started = own_time()
        scores, predictions = ((), Predictions()) if state.diverged else score_splits(work, self.head, reader)
        state.eval_seconds += own_time() - started
        result = PhaseResult(
            name=phase,
            epochs=state.epoch,
            best_epoch=state.best_epoch,
            steps=state.epoch * work.order.steps(),
            batch_size=work.settings.batch_size,
            order_hash=state.order_hash,
            train_seconds=state.train_seconds,
            eval_seconds=state.eval_seconds,
            scores=scores,
            curve=tuple(CurvePoint(**each) for each in state.curve),
            events=tuple(state.events),
            interference=tuple(Cosine(**each) for each in state.interference) if work.interference else None,
        )
        return result, predictions, state.diverged

    def _work(self, phase: str) -> Work:
        cell, settings = self.cell, self.cell.protocol.phase(phase)
        sizes = {name: len(self.corpus.parts[name, "train"]) for name in self.tasks}
        sampling = cell.protocol.sampling
        order = Order(sizes, settings.batch_size, sampling, cell.seed, phase, settings.epochs, settings.step)
        return Work(
            phase=phase,
            settings=settings,
            tasks=self.tasks,
            shapes=self.shapes,
            losses={name: self._loss(task) for name, task in self.tasks.items()},
            constant_losses={name: self._constant_loss(task) for name, task in self.tasks.items()},
            corpus=self.corpus,
            order=order,
            seed=cell.seed,
            device=self.device,
            autocast=phase == "finetune" and cell.execution.precision == "bf16",
            interference=cell.interference,
            fixed=cell.execution.cuda_graph or cell.execution.compiled,
            graphs=cell.execution.cuda_graph,
            compiled=cell.execution.compiled,
            log=lambda line: self.emit({"event": "log", "line": f"{cell.label}: {line}"}),
        )

    def _reader(self, phase: str) -> Reader:
        cell, settings = self.cell, self.settings
        if phase == "pretrain" and cell.execution.feature_cache:
            return StoredReader(self.workspace.resident(cell.encoder, self.texts, settings, self.device))
        tokenized = self.workspace.tokenized(cell.encoder, self.texts, cell.protocol.max_length)

        # A fine-tuned encoder is scored as it is trained: weights in fp32, since rounding them to bf16 would undo most
        # of what small steps changed; the forward in bf16, under autocast.
        tuned, half = phase == "finetune", settings.precision == "bf16"
        kind = dataclasses.replace(settings, precision="fp32") if tuned else settings

        def make_table(rows: Tensor) -> FeatureTable:
            self.encoder.eval()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=tuned and half):
                return encode_table(self.encoder, tokenized.select(rows), kind).to(self.device)

        self.encoder.eval()
        return LiveReader(self.encoder, tokenized, settings, self.spec.reads, tuned, make_table)

    def _modules(self, *, tuned: bool | None = None) -> nn.ModuleDict:
        """What a phase trains; without `tuned`, what any phase of the cell changes."""
        if tuned is None:
            tuned = "finetune" in self.cell.protocol.phases
        return nn.ModuleDict({"head": self.head, "encoder": self.encoder.model} if tuned else {"head": self.head})

    def _checkpoint(self, done: list[PhaseResult], state: State | None, predictions: Predictions) -> None:
        assert self.store is not None
        self.store.save_checkpoint(
            self.cell.key,
            {
                "done": [dataclasses.asdict(each) for each in done],
                "state": dict(vars(state)) if state else None,
                # A state has the weights of the modules that its phase trains; between phases all are kept.
                "weights": None if state else self._modules().state_dict(),
                "predictions": predictions.columns(),
            },
        )

    def _loss(self, task: TaskSpec) -> Loss:
        return task.losses[self._loss_name(task)]

    def _loss_name(self, task: TaskSpec) -> str:
        return loss_name(self.spec, self.config, task, self.cell.protocol)

    def _constant_loss(self, task: TaskSpec) -> float:
        labels = self.corpus.parts[task.name, "train"].labels
        assert labels is not None
        return baseline_loss(task, self._loss_name(task), labels.numpy())
