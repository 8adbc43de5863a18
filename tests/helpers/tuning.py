"""What the tests of `benchkit.tune` share: small searches of the real thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchkit.core.plugins import load_plugins
from benchkit.experiment.config import Request
from benchkit.tuning.search import StudyResult, TuneRequest, Tuning

SIZES = {"train": 64, "dev": 48, "test": 48}
SMALL = (
    *(f"{task}.{split}_size={size}" for task in ("sst", "quora", "sts") for split, size in SIZES.items()),
    "pretrain.epochs=3",
)
FLAGS = [part for field in SMALL for part in ("--set", field)]


def request(out: Path, head: str = "baseline", settings: tuple[str, ...] = (), **options: Any) -> TuneRequest:
    run = Request(heads=(head,), settings=(*SMALL, *settings), out=out, jobs=1, device="cpu")
    run = replace(run, **{name: options.pop(name) for name in ("head_files",) if name in options})
    return TuneRequest(run, **{"trials": 4, "final_seeds": 0, "pruner": "none", **options})


def open_search(wanted: TuneRequest) -> tuple[Tuning, list[str]]:
    """With its studies opened; what it logged."""
    lines: list[str] = []

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "log":
            lines.append(event["line"])

    tuning = Tuning.open(wanted, load_plugins(wanted.run.head_files), emit)
    tuning.start(emit)
    return tuning, lines


def search(wanted: TuneRequest) -> StudyResult:
    """One head's study, in this process."""
    tuning, _ = open_search(wanted)
    return tuning.conclude(tuning.search(tuning.studies[0], lambda event: None, lambda: False), lambda event: None)
