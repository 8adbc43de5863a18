"""Where jobs run: every executor gives the same numbers, commands share the work, and no worker outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.cli import Call, caller
from helpers.runs import SIZES, flags, run

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.experiment.config import Request
from benchkit.experiment.executors import EXECUTORS, LocalProcesses
from benchkit.experiment.session import Session
from benchkit.store.cells import CellStore

SETTINGS = tuple(f"{name}={value}" for name, value in {**SIZES, "pretrain.epochs": 2}.items())


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


def open_session(out: Path, **options: Any) -> Session:
    heads = options.pop("heads", ("baseline",))
    settings = (*SETTINGS, *options.pop("settings", ()))
    request = Request(
        heads=heads, encoder="demo", settings=settings, out=out, device="cpu", phases=("pretrain",), **options
    )
    return Session.open(request, load_plugins(()), lambda event: None)


def hashes(folder: Path) -> dict[str, str]:
    store = CellStore(folder / "cells")
    found = {key: store.load(key) for key in store.keys()}  # noqa: SIM118
    return {key: record.predictions_sha256 for key, record in found.items() if record}


def test_every_executor_gives_the_same_numbers(tmp_path: Path) -> None:
    for name in EXECUTORS:
        events: list[dict[str, Any]] = []
        result = run(tmp_path / name, "baseline", seeds=2, executor=name, on_event=events.append)
        assert {cell.status for cell in result.cells} <= {"ok", "collapsed"}
        assert [event["event"] for event in events if event["event"] in ("start", "cell")] == ["start", "cell"] * 2
    first, *others = (hashes(tmp_path / name) for name in EXECUTORS)
    assert all(each == first for each in others)


def test_a_cell_may_come_back_as_a_message(tmp_path: Path) -> None:
    class Far(LocalProcesses):
        shared_disk = False

    run(tmp_path / "here", "baseline", seeds=2)
    session = open_session(tmp_path / "far", seeds=(0, 1), settings=("layers=-1",))
    session.run(lambda event: None, Far(session.workspace, 2))
    assert hashes(tmp_path / "far") == hashes(tmp_path / "here")
    for key in hashes(tmp_path / "far"):
        here, far = (CellStore(tmp_path / name / "cells").weights(key) for name in ("here", "far"))
        assert all(torch.equal(here[name], far[name]) for name in here)
        assert len(CellStore(tmp_path / "far" / "cells").predictions(key))


BROKEN = """
from dataclasses import dataclass
from torch import nn
from benchkit import HeadSpec, hookimpl

@dataclass(frozen=True)
class Config:
    pass

class Head(nn.Module):
    def __init__(self, config, hidden, tasks):
        super().__init__()
        self.trunk = nn.Identity()
        self.branches = nn.ModuleDict({t.name: nn.Linear(hidden, t.out) for t in tasks})

    def forward(self, features, task):
        WHAT

@hookimpl
def benchkit_heads():
    return [HeadSpec("broken", "Fails.", Head, Config)]
"""


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("raise RuntimeError('no such luck')", "no such luck"),
        ("__import__('os').kill(__import__('os').getpid(), 9)", "its worker was killed"),
    ],
)
def test_a_cell_that_fails_is_a_row_and_the_others_go_on(what: str, reason: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN.replace("WHAT", what))
    result = run(tmp_path / "out", "broken,baseline", head_files=[broken], executor="processes")
    assert [cell.status == "failed" for cell in result.cells] == [True, False]
    assert reason in result.cells[0].error


def test_a_store_that_cannot_be_written_ends_a_run_in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(CellStore, "save", full)
    with pytest.raises(UserError, match="no space left"):
        run(tmp_path, "baseline", seeds=2)


def test_a_cell_of_another_run_is_put_off_to_the_end(tmp_path: Path) -> None:
    session = open_session(tmp_path, seeds=(0, 1))
    mine, other = session.cells
    events: list[tuple[str, str]] = []
    stored = CellStore(session.store.root)
    lock = stored.lock(mine.key)
    lock.__enter__()

    def emit(event: dict[str, Any]) -> None:
        if event["event"] in ("start", "cell"):
            events.append((event["event"], event["key"]))
        if event["event"] == "cell" and event["key"] == other.key:
            lock.__exit__(None, None, None)  # only now: who waited for it would wait for ever

    session.run(emit)
    assert events == [(what, cell.key) for cell in (other, mine) for what in ("start", "cell")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_two_commands_share_the_work(jobs: int, tmp_path: Path) -> None:
    """No cell is trained twice; both see all records. Trained is what has a `start` in one of the two."""
    code = (
        "import json, sys; from pathlib import Path; sys.path[:0] = sys.argv[1].split(':')\n"
        "from helpers.runs import run\n"
        "events = []\n"
        "result = run(Path(sys.argv[2]), 'baseline', seeds=6, jobs=int(sys.argv[3]), on_event=events.append)\n"
        "started = [each['key'] for each in events if each['event'] == 'start']\n"
        "print(json.dumps([started, [[cell.key, cell.status] for cell in result.cells]]))\n"
    )
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, str(tests), str(tmp_path), str(jobs)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(each.communicate(timeout=120)[0].splitlines()[-1]) for each in both]
    assert [each.returncode for each in both] == [0, 0]
    (first, records), (second, same) = found
    assert records == same
    assert len(records) == 6
    assert all(status in ("ok", "collapsed") for _, status in records)
    assert sorted([*first, *second]) == sorted(key for key, _ in records)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start(out: Path, *more: str, command: str = "run") -> subprocess.Popen[str]:
    heads = ["--heads", "baseline", "--phases", "pretrain", *flags(**{"pretrain.epochs": 400}), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "benchkit", command, *heads, "--jobs", "2", "--device", "cpu", "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts its background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize(
    ("how", "late", "command"),
    [(signal.SIGKILL, True, "run"), (signal.SIGTERM, False, "run"), (signal.SIGKILL, True, "tune")],
)
def test_workers_end_with_their_parent(how: signal.Signals, late: bool, command: str, tmp_path: Path) -> None:
    process = start(tmp_path, command=command)
    wait_for(lambda: len(children(process.pid)) == 2, 60)
    workers = children(process.pid)
    if late:  # in the middle of a training; else while they import torch
        trained = "*/checkpoint.pt" if command == "run" else "studies.journal"
        wait_for(lambda: any(tmp_path.rglob(trained)), 60)
        time.sleep(1)
    assert all(map(alive, workers))
    os.kill(process.pid, how)
    process.wait()
    wait_for(lambda: not any(map(alive, workers)), 2)
    assert process.stderr is not None
    process.stderr.close()


@linux
def test_a_worker_whose_stdin_ends_ends_too(tmp_path: Path) -> None:
    """What does it where the system does not."""
    command = [sys.executable, "-m", "benchkit.experiment.worker", str(os.getpid()), str(tmp_path)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdin is not None
    job = {"function": "time:sleep", "payload": 60, "head_files": []}
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.close()
    with worker:
        assert worker.wait(timeout=30) == 1


@linux
def test_ctrl_c_while_workers_import_torch_is_one_line(tmp_path: Path) -> None:
    process = start(tmp_path)
    wait_for(lambda: len(children(process.pid)) == 2, 60)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "the same command goes on" in errors


def test_the_command_line_chooses(tmp_path: Path, call: Call) -> None:
    shared = ["run", "--heads", "baseline", "--phases", "pretrain", "--device", "cpu", *flags(), "--seeds", "1"]
    done = call(*shared, "--executor", "processes", "--jobs", "1", "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert call(*shared, "--executor", "local", "--out", tmp_path / "b").returncode == 0
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_memory_holds_one_copy_of_what_is_read(tmp_path: Path) -> None:
    """What cells that run at the same time share, and what goes when the next kind is asked for."""
    session = open_session(tmp_path, heads=("baseline", "layer-mix"))
    plan, workspace, device = session.plan, session.workspace, torch.device("cpu")
    corpus = workspace.corpus(plan.data, plan.protocol)
    pooled, layers = session.feature_settings(session.cells)
    first = workspace.resident(plan.encoder, corpus, pooled, device)
    assert workspace.resident(plan.encoder, corpus, pooled, device) is first
    workspace.resident(plan.encoder, corpus, layers, device)
    assert workspace.resident(plan.encoder, corpus, pooled, device) is first, "it is still read"
    del first
    workspace.resident(plan.encoder, corpus, layers, device)
    assert len(workspace._resident) == 1
