"""Where the parts of `gpu.py` measure, at which size, and on which files."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from made_up_files import write_data, write_encoder

# The report's rows: train and dev of each task.
ROWS = {
    "sst": {"train": 8544, "dev": 1101},
    "quora": {"train": 8544, "dev": 20212},
    "sts": {"train": 6040, "dev": 863},
}

Row = dict[str, Any]


class Setting:
    """Device, sizes, and a scratch folder that is gone afterwards."""

    def __init__(self, smoke: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.smoke = smoke or self.device.type == "cpu"
        self.base, self.small = ("tiny", "tiny") if self.smoke else ("base", "6x384")
        self.rows = self.share(100 if self.smoke else 1)
        self.scratch = tempfile.TemporaryDirectory()
        # Never what is stored already: an empty cache is what is to be measured.
        os.environ["BENCHKIT_CACHE"] = str(self.folder / "cache")

    @staticmethod
    def share(part: int) -> dict[str, dict[str, int]]:
        """One in `part` of the report's rows."""
        return {name: {split: count // part for split, count in rows.items()} for name, rows in ROWS.items()}

    @property
    def folder(self) -> Path:
        return Path(self.scratch.name)

    @cached_property
    def data(self) -> Path:
        """The three tasks as files, at the report's sizes."""
        return write_data(self.folder / "data", self.rows)

    @cached_property
    def encoder(self) -> Path:
        """BERT-base with random weights as files."""
        return write_encoder(self.folder / "encoder", self.base)

    def seconds(self, call: Callable[[], Any], repeats: int = 3) -> float:
        """Least wall-clock time of a few calls, all that was asked of the device included, after one to warm up."""
        found = []
        for _ in range(1 + repeats):
            self.wait()
            started = time.perf_counter()
            call()
            self.wait()
            found.append(time.perf_counter() - started)
        return min(found[1:])

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class OutOfTime(BaseException):
    """A part took longer than it may. No `Exception`: a run makes a failed cell of those, and goes on."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `OutOfTime` in here after so many seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"stopped after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def query(what: str) -> list[str]:
    """Lines of `nvidia-smi --query-…`; none where there is no such program."""
    command = ["nvidia-smi", f"--query-{what}", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in found.splitlines() if line.strip()]


def machine() -> Row:
    """The GPU as its driver sees it; to be asked before this process uses it, or this is one of the others."""
    fields = "name,driver_version,power.limit,power.max_limit,clocks.sm,clocks.max.sm,memory.used,utilization.gpu"
    cards = [dict(zip(fields.split(","), line.split(", "), strict=False)) for line in query(f"gpu={fields}")]
    others = query("compute-apps=pid,used_memory")
    return {"cards": cards, "other_processes": others, "alone": not others} if cards else {}
