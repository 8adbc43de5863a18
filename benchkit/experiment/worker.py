"""`python -m benchkit.experiment.worker PARENT CACHE`: runs the jobs that it reads from stdin and writes messages to
stdout, a JSON line each. It ends with stdin, and never outlives the process PARENT that started it.

Nothing large is imported before signals are settled: Ctrl-C reaches the whole process group, and only the parent is to
act on it.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 1.0


def main() -> None:
    parent, cache = int(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the parent blocked it until now
    end_with(parent)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    # Heads and libraries may print; messages have stdout for themselves.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(message: dict[str, Any]) -> None:
        try:
            messages.write(json.dumps(message) + "\n")
            messages.flush()
        except BrokenPipeError:  # the parent is gone; the last checkpoint is kept
            os._exit(1)

    from benchkit.core.errors import UserError
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.executors import Job
    from benchkit.experiment.workspace import Workspace

    workspace, files = None, None
    while (line := lines.get()) is not None:
        job = Job.from_json(line)
        try:
            if workspace is None or files != job.head_files:
                files = job.head_files
                workspace = Workspace(
                    load_plugins(map(Path, files)), cache, lambda line: emit({"event": "log", "line": line})
                )
            emit(job.run(workspace, emit))
        except UserError as error:
            emit({"event": "error", "line": str(error)})
    sys.stderr.flush()
    os._exit(0)  # nothing is left to tidy up, and taking torch down takes a while


def end_with(parent: int) -> None:
    """Let Linux kill this process when its parent ends; elsewhere the end of stdin does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            os._exit(1)


def _read(lines: queue.SimpleQueue[str | None]) -> None:
    """When stdin ends, an idle worker ends by itself; a busy one has lost its parent."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
