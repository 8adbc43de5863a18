"""Where cells run: in this process, or in worker processes on this machine."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from benchkit.core.record import Failure
from benchkit.experiment.cell import Cell
from benchkit.experiment.run_cell import Emit, Event, Predictions, execute, out_of_memory, unfinished
from benchkit.experiment.workspace import Workspace
from benchkit.store.cells import CellStore


class Executor(Protocol):
    def run(self, cells: Sequence[Cell], store: CellStore, emit: Emit) -> None:
        """Run all cells; each ends as a record in the store. Emits `cell` and `epoch` events."""


@dataclass
class InProcess:
    """One cell after the other, here; what the workspace has loaded is shared by all of them."""

    workspace: Workspace

    def run(self, cells: Sequence[Cell], store: CellStore, emit: Emit) -> None:
        for cell in cells:
            _run_here(cell, self.workspace, store, emit)


@dataclass
class LocalProcesses:
    """`jobs` worker processes on this machine, each fed one cell at a time."""

    jobs: int
    cache: Path
    _workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, cells: Sequence[Cell], store: CellStore, emit: Emit) -> None:
        waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
        for cell in cells:
            waiting.put(cell)
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=self._feed, args=(waiting, store, events), daemon=True)
            for _ in range(min(self.jobs, len(cells)))
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in cells:
                while (event := events.get())["event"] != "cell":
                    emit(event)
                emit(event)
        finally:
            stopped = sys.exc_info()[0] is not None
            for worker in self._workers:
                if stopped:
                    worker.kill()
                with worker:  # closes its pipes and waits
                    pass
            for thread in threads:
                thread.join(timeout=5)

    def _feed(self, waiting: queue.SimpleQueue[Cell], store: CellStore, events: queue.SimpleQueue[Event]) -> None:
        """Keep one worker busy; start another when it dies. Every cell ends with an event, whatever happens."""
        worker: subprocess.Popen[str] | None = None
        while True:
            try:
                cell = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                if worker is None or worker.poll() is not None:
                    worker = self._start(store)
                events.put({"event": "start", "key": cell.key})
                if not _run_one(worker, cell, events):
                    error = _end(worker.wait(), cell)
                    record = unfinished(cell, Failure("worker", "", error))
                    store.save(record, Predictions().columns(), {})
                    events.put({"event": "cell", "key": cell.key, "status": "failed", "error": error})
            except Exception as error:  # noqa: BLE001 - a full disk, say; whoever waits for the cell must hear of it
                events.put({"event": "cell", "key": cell.key, "status": "failed", "error": str(error)})
        if worker is not None and worker.stdin:
            worker.stdin.close()

    def _start(self, store: CellStore) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchkit.experiment.worker", str(store.root), str(self.cache)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self._workers.append(worker)
        return worker


def _run_here(cell: Cell, workspace: Workspace, store: CellStore, emit: Emit) -> None:
    emit({"event": "start", "key": cell.key})
    record = execute(cell, workspace, store, emit)
    emit({"event": "cell", "key": cell.key, "status": record.status, "error": record.error})


def _end(code: int, cell: Cell) -> str:
    """Why a worker ended in the middle of a cell. Linux ends who takes the last memory with signal 9."""
    if code == -signal.SIGKILL:
        return f"its worker was killed, by hand or {out_of_memory(cell)}; run the same command again to resume"
    reason = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"its worker {reason}; run the same command again to resume"


def _run_one(worker: subprocess.Popen[str], cell: Cell, events: queue.SimpleQueue[Event]) -> bool:
    """Send a cell and pass its events on; False if the worker died before the cell ended."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        send(worker.stdin, json.loads(cell.to_json()))
    except OSError:
        return False
    for line in worker.stdout:
        event: Event = json.loads(line)
        events.put(event)
        if event["event"] == "cell":
            return True
    return False


def send(stream: IO[str], message: Event) -> None:
    """One message a line, as workers read and write them."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()
