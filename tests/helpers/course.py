"""The course's files, small, of demo sentences; and a run on them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import benchkit
from benchkit.cli import main
from benchkit.core.plugins import load_plugins
from benchkit.data import Split, load_data

_FILES = {"sst": ("ids-sst", "sentiment"), "quora": ("quora", "is_duplicate"), "sts": ("sts", "similarity")}
_SIZES = {"train": 96, "dev": 60, "test": 60}


def write_course_files(folder: Path) -> Path:
    """Tab separated and quoted, an unnamed index first; test without labels, as students get it. Ids in upper case."""
    folder.mkdir()
    plugins = load_plugins()
    for task, splits in load_data("demo", list(plugins.tasks.values())).items():
        for name, split in splits.items():
            stem, label = _FILES[task]
            path = folder / f"{stem}-{name}{'-student' * (name == 'test')}.csv"
            _write(path, split, plugins.tasks[task].texts, "" if name == "test" else label)
    return folder


def _write(path: Path, split: Split, texts: Sequence[str], label: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["", "id", *texts, *([label] if label else [])])
        for row in range(_SIZES[split.name]):
            given = [split.labels[row] if split.task != "sst" else int(split.labels[row])] if label else []
            writer.writerow([row, f"ID-{split.ids[row]}", *split.texts[row], *given])


def run(out: Path, data: Path | str, **options: Any) -> benchkit.Result:
    """A short run on them, by the demo's protocol but with the smaller encoder."""
    options.setdefault("encoder", "demo")
    settings = {"layers": "-1", "pretrain.epochs": 2, "finetune.epochs": 1, "finetune.learning_rate": 1e-3}
    return benchkit.run(data=data, out=out, **{**options, "settings": {**settings, **options.get("settings", {})}})


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["benchkit", *map(str, arguments)])
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def score(row: Mapping[str, object]) -> float:
    """What a stored prediction's `score` is, of an answer as JSON."""
    shares = row.get("probabilities")
    value = max(shares.values()) if isinstance(shares, dict) else row["score"]
    assert isinstance(value, float)
    return value
