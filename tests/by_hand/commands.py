"""What `kill.py` and `full_disk.py` share: starting commands, looking at what they leave, and the results' page.

A command is started as a process of its own, or by forking this one, which has imported torch and the other libraries
already (seconds on a busy machine). The fork has what a shell gives to a job: its own session and process group,
default signals, its own folder, environment and output; it runs `benchkit.cli.main`, as the installed command does.
Worker processes are always real ones. Not forked: the start of Python and its very end, for which the scripts start a
share of real processes.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
ROWS = {"train": 32, "dev": 24, "test": 24}
TRACEBACK = ("Traceback (most recent call last)", "Exception ignored")


def preload() -> None:
    """Do what every command does first, before any is forked: import, hash sources, look for fonts. No thread is left,
    and no gradient was computed, which a fork would not survive.
    """
    import matplotlib.pyplot as plt
    import optuna.importance
    import optuna.visualization  # noqa: F401

    import benchkit.analysis.html
    import benchkit.analysis.report
    import benchkit.inspect.heads
    import benchkit.pretraining
    import benchkit.speed
    import benchkit.speed.measure
    import benchkit.tuning.report
    import benchkit.tuning.search  # noqa: F401
    from benchkit.cli import cli

    with contextlib.redirect_stdout(io.StringIO()):
        cli.main(["run", "--heads", "baseline", "--dry-run"], standalone_mode=False)
    plt.figure().savefig(io.BytesIO())
    plt.close()
    assert threading.active_count() == 1


def write_data(folder: Path) -> Path:
    """`sst`, `quora` and `sts` in files of a few rows each, and `texts.txt`, from the demo's sentences."""
    from benchkit_cs224n import benchkit_tasks

    texts: list[str] = []
    for task in benchkit_tasks():
        assert task.demo is not None
        (folder / task.name).mkdir(parents=True)
        for name, examples in task.demo(0).items():
            rows = [(each.id, *each.texts, each.label) for each in examples[: ROWS[name]]]
            lines = [json.dumps(dict(zip(("id", *task.texts, task.label), row, strict=True))) + "\n" for row in rows]
            (folder / task.name / f"{name}.jsonl").write_text("".join(lines), "utf-8")
            texts += [each.texts[0] for each in examples[:60]]
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return folder


@dataclass
class Process:
    """A command that was started, in a session of its own."""

    pid: int
    output: Path
    child: subprocess.Popen[bytes] | None
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.code is None and self.child is not None:
            self.code = self.child.poll()
        elif self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float) -> int | None:
        """Wait so long for its end; its exit code, or None."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.003)
        return self.code

    def text(self) -> str:
        return self.output.read_text("utf-8", "replace")

    def tracebacks(self) -> int:
        return sum(self.text().count(mark) for mark in TRACEBACK)

    def workers(self) -> list[int]:
        """Other living processes of its session."""
        return [pid for pid in session(self.pid) if pid != self.pid]


def start(arguments: Sequence[str], folder: Path, output: Path, env: Mapping[str, str], *, real: bool) -> Process:
    """Start `benchkit ARGUMENTS` in a folder; `output` gets stdout and stderr."""
    variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **env}
    if real:
        with output.open("wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "benchkit", *arguments],
                cwd=folder, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                start_new_session=True, preexec_fn=_default_signals,
            )  # fmt: skip
        return Process(child.pid, output, child)
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        _become(arguments, folder, output, variables)
    return Process(pid, output, None)


def _become(arguments: Sequence[str], folder: Path, output: Path, variables: Mapping[str, str]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        _default_signals()
        atexit._clear()
        os.chdir(folder)
        os.environ.update(variables)
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(target, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = ["benchkit", *arguments]
        from benchkit.cli import main

        main()
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _default_signals() -> None:
    """A shell starts its background jobs with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)


def session(pid: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, _, own = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # gone meanwhile
            continue
        if int(own) == pid and state not in "ZX":
            found.append(int(entry.name))
    return found


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def write_section(page: Path, heading: str, text: str) -> None:
    """Put a section of second level into a Markdown page, in the place of the one with this heading."""
    old = page.read_text("utf-8") if page.exists() else "# Signals and full disks\n"
    before, found, after = f"\n{old}".partition(f"\n## {heading}\n")
    rest = re.split(r"(?m)^(?=## )", after, maxsplit=1)[1:] if found else []
    page.write_text(f"{before.strip()}\n\n## {heading}\n\n{text.strip()}\n\n{''.join(rest)}".rstrip() + "\n", "utf-8")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


Numbers = Callable[[Path], Mapping[str, object]]
"""What a finished command's folder says, by name; equal for equal numbers."""
