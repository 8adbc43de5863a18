"""`python -m benchkit.tuning.worker`: reads a job, a JSON line, runs trials until its study has enough, and
writes events to stdout, a JSON line each. It ends after the running trial when stdin does, or says `stop`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.experiment.executors import send
from benchkit.experiment.run_cell import Emit, Event
from benchkit.experiment.workspace import Workspace
from benchkit.tuning.objective import Job, Outcome, run_trial
from benchkit.tuning.storage import Storage, open_storage
from benchkit.tuning.trials import Claims
from benchkit.turns import sleep

if TYPE_CHECKING:
    import optuna


_POLL = 0.3  # seconds between looks, where the last trials run elsewhere


def work(job: Job, storage: Storage, workspace: Workspace, emit: Emit, stopped: Callable[[], bool]) -> None:
    """Run trials until there are enough, or until somebody says stop."""
    claims = Claims(job, storage)
    with claims.working():
        while not stopped():
            trial = claims.claim()
            if trial == "done":
                return
            if trial == "wait":
                sleep(_POLL)
            else:
                _run(claims, trial, workspace, emit)


def _run(claims: Claims, trial: optuna.Trial, workspace: Workspace, emit: Emit) -> None:
    number = trial.number
    emit({"event": "begin", "number": number})

    def report(epoch: int, epochs: int, value: float) -> None:
        emit({"event": "step", "number": number, "epoch": epoch, "epochs": epochs, "value": value})

    try:
        outcome = run_trial(claims.job, trial, workspace, report)
    except BaseException:  # Ctrl-C, twice
        claims.give_back(number)
        raise
    if not claims.finish(trial, outcome.state, outcome.values, outcome.notes):
        line = f"trial {number} was taken for lost and given to another worker; this result is dropped"
        emit({"event": "log", "line": line})
    emit(_ended(claims, number, outcome))


def _ended(claims: Claims, number: int, outcome: Outcome) -> dict[str, Any]:
    counts = claims.counts()
    return {
        "event": "trial",
        "number": number,
        "state": outcome.state,
        "values": list(outcome.values),
        "reason": outcome.notes.get("reason", ""),
        "seconds": outcome.notes["seconds"],
        "finished": counts.finished,
        "pruned": counts.pruned,
        "failed": counts.failed,
        "best": counts.best,
    }


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what to do
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")  # heads and libraries may print
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: Event) -> None:
        try:
            send(events, event)
        except BrokenPipeError:
            stop.set()

    stop = threading.Event()
    job = Job.from_json(sys.stdin.readline())
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    try:
        plugins = load_plugins(map(Path, job.cell.head_files))
        workspace = Workspace(plugins, Path(job.cache), lambda line: emit({"event": "log", "line": line}))
        work(job, open_storage(job.storage), workspace, emit, stop.is_set)
    except UserError as error:
        emit({"event": "error", "line": str(error)})
        os._exit(2)
    events.flush()
    os._exit(0)  # the listener would wait for stdin


def _listen(stop: threading.Event) -> None:
    """Ends with stdin: whoever started this process said stop, or is gone."""
    sys.stdin.readline()
    stop.set()


if __name__ == "__main__":
    main()
