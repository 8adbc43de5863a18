"""One run from request to result: plan, encode once, run the cells that are not done, collect the records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchkit.core.plugins import Plugins
from benchkit.core.record import Failure, Record
from benchkit.core.task import TaskSpec
from benchkit.data import label_problems
from benchkit.experiment.cell import Cell
from benchkit.experiment.companions import Control, controls
from benchkit.experiment.config import Plan, Request, make_cells, resolve
from benchkit.experiment.executors import CellQueue, Executor, check_executor, make_executor
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.run_cell import Emit, Event, result_of, unfinished
from benchkit.experiment.workspace import Workspace
from benchkit.store.cells import CellStore
from benchkit.store.features import FeatureSettings
from benchkit.store.files import cache_root

_SHOWN = 5  # broken rows of a split


@dataclass(frozen=True)
class Outcome:
    """A finished run: its records in the order of the heads as named, then of seeds."""

    plan: Plan
    tasks: dict[str, TaskSpec]
    records: tuple[Record, ...]
    controls: tuple[Control, ...]
    reused: int


@dataclass
class Session:
    """A resolved request with what it has loaded.

    Attributes:
        errors: of cells that ended, by key; "" where there is none.
        best: by head, the record of the best seed so far, where only its encoder is kept.
    """

    plan: Plan
    workspace: Workspace
    store: CellStore
    cells: list[Cell]
    controls: tuple[Control, ...]
    errors: dict[str, str] = field(default_factory=dict)
    best: dict[str, Record] = field(default_factory=dict)

    @staticmethod
    def open(request: Request, plugins: Plugins, emit: Emit) -> Session:
        """Plan the cells.

        Raises:
            UserError: see `resolve`; also data, a metric or an encoder that cannot be used.
        """

        def log(line: str) -> None:
            emit({"event": "log", "line": line})

        check_executor(request.executor, request.jobs)
        plan = resolve(request, plugins)
        workspace = Workspace(
            plugins, cache_root(), log, lambda done, total: emit({"event": "encode", "done": done, "total": total})
        )
        cells = make_cells(plan, workspace)
        for line in _remarks(plan, workspace):
            log(line)
        store = CellStore(plan.out / "cells", log=log)
        return Session(plan, workspace, store, cells, _controls(plan, workspace))

    def companion(self, plan: Plan) -> Session:
        """A session of another plan with what this one has loaded."""
        store = CellStore(plan.out / "cells", log=self.workspace.log)
        return Session(plan, self.workspace, store, make_cells(plan, self.workspace), _controls(plan, self.workspace))

    def finished(self) -> dict[str, Record]:
        """Records of the cells that need not run, by key. Failed cells are tried again."""
        found = {cell.key: result_of(cell, self.store) for cell in self.cells}
        return {key: record for key, record in found.items() if record is not None}

    def stored(self) -> list[Record]:
        """Every sound record of the run's folder, whatever request it came from."""
        return [record for key in self.store.keys() if (record := self.store.load(key))]  # noqa: SIM118

    def run(self, emit: Emit, executor: Executor | None = None) -> Outcome:
        """Run what is not done; every cell has a record afterwards. Without an executor the plan decides how."""
        done = self.finished()
        for record in done.values():
            self._keep_better(record)
        pending = [cell for cell in self.cells if cell.key not in done]
        emit({"event": "plan", "cells": [_describe(cell, cell.key in done) for cell in self.cells]})
        if pending:
            if line := self.encoders_kept(pending):
                emit({"event": "log", "line": line})
            self.encode(pending)
            self._run(pending, executor, lambda event: self._pass_on(event, emit))
        records = [self.store.load(cell.key) or self._lost(cell) for cell in self.cells]
        tasks = {task.name: task for task in self.workspace.tasks(self.plan.protocol)}
        return Outcome(plan=self.plan, tasks=tasks, records=tuple(records), controls=self.controls, reused=len(done))

    def _run(self, pending: Sequence[Cell], executor: Executor | None, emit: Emit) -> None:
        plan = self.plan
        executor = executor or make_executor(plan.executor, self.workspace, plan.jobs, len(pending))
        executor.run(CellQueue(deque(pending), self.store, emit, executor.shared_disk), emit)

    def _pass_on(self, event: Event, emit: Emit) -> None:
        """Show a finished cell's record to the plugins that observe records."""
        emit(event)
        if event["event"] != "cell":
            return
        self.errors[event["key"]] = event["error"]
        if record := self.store.load(event["key"]):
            self._keep_better(record)
            for line in self.workspace.plugins.observe(record):
                emit({"event": "log", "line": line})

    def encoders_kept(self, cells: Sequence[Cell]) -> str:
        """What storing the fine-tuned encoders of cells will take, in a line; "" where there are none."""
        plan, keeping = self.plan, [cell for cell in cells if cell.keeps_encoder]
        if not keeping:
            return ""
        every = plan.keep_encoder == "all"
        count, which = (len(keeping), "every cell") if every else (len(set(plan.heads)), "each head's best seed")
        size = self.workspace.encoder(plan.encoder).parameters * (2 if plan.encoder_dtype == "bf16" else 4)
        return (
            f"the fine-tuned encoder of {which} is kept, in {plan.encoder_dtype}: {count} × {size / 1e6:,.0f} MB in "
            f"{self.store.root}; --keep-encoder none keeps none"
        )

    def _keep_better(self, record: Record) -> None:
        """Of a head's stored encoders, keep that of the best seed so far."""
        if self.plan.keep_encoder == "best" and self.plan.protocol.trains_encoder:
            best = self.best.setdefault(record.head, record)
            if (record.dev_mean, -record.seed) > (best.dev_mean, -best.seed):
                self.best[record.head], record = record, best
            if record is not self.best[record.head]:
                self.store.drop_encoder(record.key)

    def _lost(self, cell: Cell) -> Record:
        """A row for a cell whose record could not even be stored."""
        error = self.errors.get(cell.key) or f"its record in {self.store.root} is gone; run the command again"
        return unfinished(cell, Failure("unknown", "", error))

    def encode(self, cells: Sequence[Cell]) -> None:
        """Encode each distinct text that frozen phases need, once for all heads and seeds."""
        corpus = self.workspace.corpus(self.plan.data, self.plan.protocol)
        for settings in self.feature_settings(cells):
            self.workspace.table(self.plan.encoder, corpus, settings)

    def feature_settings(self, cells: Sequence[Cell]) -> list[FeatureSettings]:
        """The distinct kinds of stored features that cells read."""
        plan = self.plan
        if not plan.execution.feature_cache:
            return []
        tasks, encoder = self.workspace.tasks(plan.protocol), self.workspace.encoder(plan.encoder)
        found: list[FeatureSettings] = []
        for name in dict.fromkeys(cell.head for cell in cells):
            spec = self.workspace.plugins.head(name)
            execution = plan.execution
            assembly = Assembly.of(
                spec, plan.configs[name], plan.protocol, tasks, encoder, execution.precision, execution.device
            )
            found += assembly.stored_features()
        return list(dict.fromkeys(found))


def _controls(plan: Plan, workspace: Workspace) -> tuple[Control, ...]:
    """The constant predictions of every task; made before anything is trained, since a bad metric shows here."""
    data, options = workspace.data(plan.data, plan.protocol), plan.protocol.options
    return tuple(
        row
        for task in workspace.tasks(plan.protocol)
        for row in controls(task, data[task.name], options(task.name).loss)
    )


def _remarks(plan: Plan, workspace: Workspace) -> Iterator[str]:
    """What a user should know of encoder and data before trusting a number, a line each."""
    encoder = workspace.encoder(plan.encoder)
    yield from (f"encoder {encoder.name}: {note}" for note in encoder.notes)
    for task in workspace.tasks(plan.protocol):
        for split in workspace.data(plan.data, plan.protocol)[task.name].values():
            yield from label_problems(split, task)
            yield from (f"left out {row.file}:{row.line}: {row.reason}" for row in split.broken[:_SHOWN])
            if len(split.broken) > _SHOWN:
                more = len(split.broken) - _SHOWN
                yield f"left out {more} more rows of {task.name} {split.name}: see benchkit data check"


def _describe(cell: Cell, done: bool) -> dict[str, object]:
    phases = {name: cell.protocol.phase(name).epochs for name in cell.protocol.phases}
    return {"key": cell.key, "head": cell.head, "seed": cell.seed, "phases": phases, "done": done}
