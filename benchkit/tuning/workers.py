"""Worker processes of a search."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from benchkit.core.errors import UserError
from benchkit.experiment.config import Plan
from benchkit.experiment.run_cell import Emit, Event
from benchkit.experiment.workspace import Workspace
from benchkit.tuning.objective import Job
from benchkit.tuning.storage import Storage
from benchkit.tuning.trials import reap_all
from benchkit.tuning.worker import work
from benchkit.turns import together

_RESTARTS = 3  # of workers that died, for each job


def run_workers(
    job: Job, storage: Storage, workspace: Workspace, plan: Plan, emit: Emit, stopped: Callable[[], bool]
) -> None:
    """Work on a study with as many workers as planned until it has enough trials, or until somebody says stop.

    Raises:
        UserError: a worker could not work, or workers kept dying.
    """
    try:
        if plan.at_once > 1:
            together([partial(work, job, storage, workspace, emit, stopped)] * min(plan.at_once, job.trials))
        elif plan.jobs == 1:
            work(job, storage, workspace, emit, stopped)
        else:
            _Pool(job, emit, stopped).run(plan.jobs)
    finally:
        if sys.exc_info()[0] is not None:
            reap_all(job, storage)


@dataclass
class _Pool:
    job: Job
    emit: Emit
    stopped: Callable[[], bool]
    events: queue.SimpleQueue[tuple[subprocess.Popen[str], Event | None]] = field(default_factory=queue.SimpleQueue)
    workers: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, jobs: int) -> None:
        try:
            for _ in range(jobs):
                self._start()
            self._listen(jobs)
        finally:
            for worker in self.workers:
                if sys.exc_info()[0] is not None:
                    worker.kill()
                with worker:  # closes its pipes and waits
                    pass

    def _listen(self, jobs: int) -> None:
        """Pass events on until all workers have ended; start another for one that died."""
        alive, restarts, told = jobs, _RESTARTS * jobs, False
        while alive:
            if self.stopped() and not told:
                told = True
                for worker in self.workers:
                    _say_stop(worker)
            try:
                worker, event = self.events.get(timeout=0.2)
            except queue.Empty:
                continue
            if event is not None:
                self._pass_on(event)
                continue
            alive -= 1
            if worker.wait() and not self.stopped():
                alive, restarts = alive + 1, restarts - 1
                if not restarts:
                    raise UserError(f"workers of study {self.job.study!r} keep dying; the last {_end(worker)}")
                self.emit({"event": "log", "line": f"a worker {_end(worker)}; its trial will be tried again"})
                self._start()

    def _pass_on(self, event: Event) -> None:
        if event["event"] == "error":
            raise UserError(event["line"])
        self.emit(event)

    def _start(self) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-m", "benchkit.tuning.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.workers.append(worker)
        assert worker.stdin is not None
        try:
            worker.stdin.write(self.job.to_json() + "\n")
            worker.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once, as its reader will find
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()

    def _read(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            self.events.put((worker, json.loads(line)))
        self.events.put((worker, None))


def _say_stop(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    try:
        worker.stdin.write("stop\n")
        worker.stdin.flush()
    except (BrokenPipeError, ValueError):
        pass  # it has ended


def _end(worker: subprocess.Popen[str]) -> str:
    code = worker.returncode
    return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
