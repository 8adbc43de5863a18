"""Progress without a terminal: a line now and then, with the time that is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from benchkit.cli.output import size
from benchkit.cli.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time passes when a test says so."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr("benchkit.cli.progress.time.monotonic", lambda: now.seconds)
    return now


def test_a_line_every_ten_seconds_with_the_time_left(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = Progress()
    progress.start("model.safetensors", 1_000_000, 9_000_000)
    for _ in range(4):
        clock.seconds += 6
        progress.advance(1_000_000)
    progress.stop()
    assert capsys.readouterr().err.splitlines() == [
        "model.safetensors: continuing from 1.0 MB",
        "model.safetensors: 3.0 MB of 9.0 MB, about 36 s left",
        "model.safetensors: 5.0 MB of 9.0 MB, about 24 s left",
        "model.safetensors: 5.0 MB",
    ]


def test_nothing_is_said_of_what_was_there_already(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.start("a", 0, None, "texts")
    progress.stop()
    assert capsys.readouterr().err == ""


def test_a_search_counts_the_trials_that_are_left(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    counts = SimpleNamespace(finished=2, best=0.5)
    progress({"event": "study", "head": "cnn", "wanted": 4, "counts": counts})
    rest: dict[str, Any] = {"pruned": 0, "failed": 0, "reason": ""}
    for finished in (3, 4):
        progress({"event": "begin", "number": finished})
        progress({"event": "step", "number": finished, "epoch": 1, "epochs": 2})
        clock.seconds += 30
        found = {"finished": finished, "state": "COMPLETE", "values": (0.6,), "best": 0.6}
        progress({"event": "trial", "number": finished, **found, **rest})
    assert capsys.readouterr().err.splitlines() == [
        "2 of 4 trials are finished already, best so far 0.5000",
        "[3/4] trial 3 0.6000; best 0.6000, 0 pruned, 0 failed, about 30 s left",
        "[4/4] trial 4 0.6000; best 0.6000, 0 pruned, 0 failed",
    ]


def test_a_run_tells_each_cell_and_what_is_left(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(jobs=1)
    cells = [{"key": key, "head": "cnn", "seed": seed, "phases": {"pretrain": 2}, "done": done}
             for key, seed, done in (("a", 0, True), ("b", 1, False), ("c", 2, False))]  # fmt: skip
    progress({"event": "plan", "cells": cells})
    progress({"event": "encode", "done": 0, "total": 50})
    progress({"event": "encode", "done": 50, "total": 50})
    progress({"event": "epoch", "key": "b", "phase": "pretrain", "epoch": 2, "seconds": 20.0, "score": 0.5})
    progress({"event": "cell", "key": "b", "status": "ok", "error": ""})
    progress({"event": "cell", "key": "c", "status": "failed", "error": "no"})
    assert capsys.readouterr().err.splitlines() == [
        "1 of 3 cells are finished already and are reused",
        "encode: 50 texts",
        "[2/3] cnn seed 1 done, about 20 s left",
        "[3/3] cnn seed 2: failed: no",
    ]


def test_sizes() -> None:
    assert [size(count) for count in (999, 171_422, 34_965_546)] == ["999 B", "171 kB", "35.0 MB"]
