"""`python -m benchkit.experiment.worker CELLS CACHE`: runs cells that it reads from stdin
and writes events to stdout, a JSON line each. Ends with stdin, or after the running epoch if its reader is gone.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.experiment.cell import Cell
from benchkit.experiment.executors import send
from benchkit.experiment.run_cell import Event, execute
from benchkit.experiment.workspace import Workspace
from benchkit.store.cells import CellStore


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what to do
    # Heads and libraries may print; the protocol has stdout for itself.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: Event) -> None:
        try:
            send(events, event)
        except BrokenPipeError:  # whoever started this process is gone; the last checkpoint is kept
            os._exit(1)

    def log(line: str) -> None:
        emit({"event": "log", "line": line})

    store = CellStore(Path(sys.argv[1]), log=log)
    workspace, files = None, None
    for line in sys.stdin:
        cell = Cell.from_json(line)
        if workspace is None or files != cell.head_files:
            files = cell.head_files
            workspace = Workspace(load_plugins(map(Path, files)), Path(sys.argv[2]), log)
        try:
            record = execute(cell, workspace, store, emit)
            emit({"event": "cell", "key": cell.key, "status": record.status, "error": record.error})
        except UserError as error:  # its record cannot be stored: a full disk
            emit({"event": "cell", "key": cell.key, "status": "failed", "error": str(error)})


if __name__ == "__main__":
    main()
