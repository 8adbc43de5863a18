"""Where jobs run: in this process, or in worker processes on this machine.

A job is plain data that names a function, so that it can be carried to another process or machine; what comes back are
messages, plain data as well. Cells and the trials of a search are both run this way.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from benchkit.core.errors import UserError, unknown
from benchkit.core.record import Failure
from benchkit.experiment.cell import Cell
from benchkit.experiment.run_cell import Busy, Emit, Event, Predictions, execute, out_of_memory, result_of, unfinished
from benchkit.experiment.workspace import Workspace
from benchkit.store.cells import CellStore
from benchkit.store.files import write_atomic

POLL_SECONDS = 0.2
"""Between looks at what no message tells of: Ctrl-C, and cells or trials of other commands."""

Result = dict[str, Any]
"""How a job ended: `event` is `result` and the rest what its function returned; or `error`, a `line` for the user; or
`died`, the exit `code` of its worker."""


@dataclass(frozen=True)
class Job:
    """A call of `function(payload, workspace, emit)`.

    Attributes:
        function: `module:name`; it returns plain data and may raise UserError.
        payload: plain data (JSON).
        head_files: the heads that its workspace must know, beside those that are installed.
    """

    function: str
    payload: Mapping[str, Any]
    head_files: tuple[str, ...] = ()

    @staticmethod
    def of(function: Callable[..., Result], payload: Mapping[str, Any], head_files: Sequence[str]) -> Job:
        return Job(f"{function.__module__}:{function.__qualname__}", payload, tuple(head_files))

    @staticmethod
    def from_json(text: str) -> Job:
        values = json.loads(text)
        return Job(values["function"], values["payload"], tuple(values["head_files"]))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def run(self, workspace: Workspace, emit: Emit) -> Result:
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        return {**function(self.payload, workspace, emit), "event": "result"}


class JobQueue(ABC):
    """What an executor is to run, and who is told how it ended; called in the thread that runs the executor."""

    @abstractmethod
    def next(self) -> Job | Literal["wait"] | None:
        """The next job; `wait`: ask again soon; None: nothing more, unless a job that runs leads to another."""

    @abstractmethod
    def ended(self, job: Job, result: Result) -> None:
        """A job has ended."""


class Executor(ABC):
    """Runs the jobs of a queue.

    Args:
        workspace: what this process has loaded.
        jobs: how many jobs run at the same time.
    """

    shared_disk = True
    """Whether jobs see this machine's files. If not, a cell's files come back in its result."""
    concurrent = True
    """Whether several jobs can run at the same time."""

    def __init__(self, workspace: Workspace, jobs: int) -> None:
        self.workspace, self.jobs = workspace, jobs

    @abstractmethod
    def run(self, jobs: JobQueue, emit: Emit) -> None:
        """Run jobs until the queue has no more; `emit` gets their events while they run."""


class InProcess(Executor):
    """One job after the other, in this process, on what the workspace has loaded. What a job raises ends the run."""

    concurrent = False

    def run(self, jobs: JobQueue, emit: Emit) -> None:
        while (job := jobs.next()) is not None:
            if job == "wait":
                time.sleep(POLL_SECONDS)
            else:
                jobs.ended(job, job.run(self.workspace, emit))


@dataclass
class _Worker:
    process: subprocess.Popen[str]
    messages: queue.SimpleQueue[tuple[_Worker, Event | None]]
    job: Job | None = None

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def send(self, job: Job) -> None:
        self.job = job
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, as its reader will find
            self.process.stdin.write(job.to_json() + "\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """Wait for its end; the end of its stdin says that there are no more jobs."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait()
        self.reader.join()
        with self.process:  # closes the other pipe
            pass

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # a line that its death cut
            for line in self.process.stdout:
                self.messages.put((self, json.loads(line)))
        self.messages.put((self, None))


class LocalProcesses(Executor):
    """Worker processes on this machine (`benchkit.experiment.worker`), each fed one job at a time. They end with this
    process, however it ends.
    """

    def run(self, jobs: JobQueue, emit: Emit) -> None:
        messages: queue.SimpleQueue[tuple[_Worker, Event | None]] = queue.SimpleQueue()
        workers: list[_Worker] = []
        try:
            while self._feed(workers, jobs, messages):
                try:
                    worker, message = messages.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                job = worker.job
                if message is None:
                    workers.remove(worker)
                    message = {"event": "died", "code": worker.process.wait()}
                    worker.close()
                if message["event"] not in ("result", "error", "died"):
                    emit(message)
                elif job is not None:
                    worker.job = None
                    jobs.ended(job, message)
        except BaseException:
            for worker in workers:
                worker.process.kill()
            raise
        finally:
            for worker in workers:
                worker.close()

    def _feed(self, workers: list[_Worker], jobs: JobQueue, messages: queue.SimpleQueue[Any]) -> bool:
        """Give idle workers a job each, new ones where there are fewer than allowed; False when all is done."""
        while sum(worker.job is not None for worker in workers) < self.jobs:
            job = jobs.next()
            if job is None:
                return any(worker.job is not None for worker in workers)
            if job == "wait":
                return True
            idle = next((each for each in workers if each.job is None and each.process.poll() is None), None)
            if idle is None:
                idle = _Worker(_start_worker(self.workspace.cache), messages)
                workers.append(idle)
            idle.send(job)
        return True


def _start_worker(cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchkit.experiment.worker", str(os.getpid()), str(cache)]
    with _interrupts_blocked():
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that is started meanwhile does not see Ctrl-C; this one sees it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


EXECUTORS: Mapping[str, type[Executor]] = {"local": InProcess, "processes": LocalProcesses}


def make_executor(name: str, workspace: Workspace, jobs: int, pending: int) -> Executor:
    """An executor by name; "": processes where several jobs run at the same time, else this process.

    Args:
        pending: jobs that there are.
    """
    jobs = min(jobs, pending)
    return EXECUTORS[name or ("processes" if jobs > 1 else "local")](workspace, jobs)


def check_executor(name: str, jobs: int) -> None:
    """Raise UserError if there is no such executor, or it cannot run so many jobs at the same time."""
    if name and name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    if name and not EXECUTORS[name].concurrent and jobs > 1:
        raise UserError(f"--executor {name} runs one after the other: leave it out, or leave out --jobs {jobs}")


# Cells as jobs


def run_cell(payload: Mapping[str, Any], workspace: Workspace, emit: Emit) -> Result:
    """Run `cell` unless another process does: then the result says `busy`.

    Without a `store`, the result has the cell's `files`, base64 by name.
    """
    cell = Cell.from_json(json.dumps(payload["cell"]))
    with ExitStack() as stack:
        root = Path(payload["store"] or stack.enter_context(TemporaryDirectory()))
        store = CellStore(root, log=lambda line: emit({"event": "log", "line": line}))
        try:
            record = execute(cell, workspace, store, emit, wait=False)
        except Busy:
            return {"busy": True}
        found = {"status": record.status, "error": record.error}
        if payload["store"]:
            return found
        files = [path for name in _STORED if (path := root / cell.key / name).exists()]
        return {**found, "files": {path.name: base64.b64encode(path.read_bytes()).decode() for path in files}}


_LAST = "record.json"  # a cell counts as finished when it is there
_STORED = ("weights.safetensors", "encoder.safetensors", "predictions.parquet", _LAST)


@dataclass
class CellQueue(JobQueue):
    """Cells to run. One that another process is working on is put off to the end and looked at again: so commands that
    share a folder share the work. Every cell ends with a record in the store, if it can be stored, and a `cell` event.

    Attributes:
        put_off: cells that another process was working on when they were last tried.
        locks: of the cells that run where this machine's locks are not seen.
    """

    cells: deque[Cell]
    store: CellStore
    emit: Emit
    shared_disk: bool = True
    put_off: deque[Cell] = field(default_factory=deque)
    running: dict[str, Cell] = field(default_factory=dict)
    next_look: float = 0.0
    said: set[str] = field(default_factory=set)
    locks: dict[str, ExitStack] = field(default_factory=dict)

    def next(self) -> Job | Literal["wait"] | None:
        while (cell := self._choose()) is not None:
            if not self.shared_disk and not self._lock(cell):
                self._put_off(cell)
            elif not self.shared_disk and (done := result_of(cell, self.store)) is not None:
                self._end(cell, {"status": done.status, "error": done.error})
            else:
                self.running[cell.key] = cell
                payload = {"cell": asdict(cell), "store": str(self.store.root) if self.shared_disk else None}
                return Job.of(run_cell, payload, cell.head_files)
        return "wait" if self.put_off else None

    def ended(self, job: Job, result: Result) -> None:
        cell = self.running.pop(job.payload["cell"]["key"])
        if result.get("busy"):
            self._put_off(cell)
            return
        if result["event"] == "error":  # its record could not be stored: a full disk
            result = {"status": "failed", "error": result["line"]}
        try:
            if result.get("event") == "died":
                result = self._save_failed(cell, _reason(result["code"], cell))
            for name, content in sorted(result.get("files", {}).items(), key=lambda each: each[0] == _LAST):
                write_atomic(self.store.root / cell.key / name, base64.b64decode(content))
        except UserError as error:
            result = {"status": "failed", "error": str(error)}
        self._end(cell, result)

    def _end(self, cell: Cell, result: Result) -> None:
        self.locks.pop(cell.key, ExitStack()).close()
        self.emit({"event": "cell", "key": cell.key, "status": result["status"], "error": result["error"]})

    def _choose(self) -> Cell | None:
        if self.cells:
            return self.cells.popleft()
        if self.put_off and time.monotonic() >= self.next_look:
            return self.put_off.popleft()
        return None

    def _put_off(self, cell: Cell) -> None:
        self.put_off.append(cell)
        self.next_look = time.monotonic() + POLL_SECONDS / len(self.put_off)
        if cell.key not in self.said:
            self.said.add(cell.key)
            line = f"{cell.label}: another run is working on this cell; its result will be used"
            self.emit({"event": "log", "line": line})

    def _lock(self, cell: Cell) -> bool:
        with ExitStack() as stack:
            if not stack.enter_context(self.store.lock(cell.key, wait=False)):
                return False
            self.locks[cell.key] = stack.pop_all()
        return True

    def _save_failed(self, cell: Cell, error: str) -> Result:
        record = unfinished(cell, Failure("worker", "", error))
        self.store.save(record, Predictions().columns(), {})
        return {"status": "failed", "error": error}


def _reason(code: int, cell: Cell) -> str:
    """Why a worker ended in the middle of a cell. Linux ends who takes the last memory with signal 9."""
    why = f"was killed, by hand or {out_of_memory(cell)}" if code == -signal.SIGKILL else describe_end(code)
    return f"its worker {why}; run the same command again to resume"


def describe_end(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
