"""From a repository's files to a task's splits."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from benchkit.data.tables import Table, read_table
from benchkit.errors import UserError

Row = Mapping[str, Any]

DEV, TEST = 0.05, 0.10
"""Shares of Quora's dev and test: those of the CS224N project."""
COURSE = {"train": 6040, "dev": 863, "test": 1725}
"""Rows of the CS224N project's STS splits."""


@dataclass(frozen=True)
class Cut:
    """Rows by split, to be written as JSON Lines; `told` says what became of the cut that was wanted."""

    rows: Mapping[str, list[Row]]
    told: str


def by_hash(path: Path) -> Cut:
    """Quora's pairs, drawn into dev and test by the hash of the two questions.

    The same pair, turned round too, is always in the same split, whatever else the file holds.
    """
    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for row in _rows(read_table(path), path, "q", ("sentence1", "sentence2", "label")):
        rows[_draw(str(row["sentence1"]), str(row["sentence2"]))].append(row)
    return Cut(rows, "")


def _draw(first: str, second: str) -> str:
    digest = hashlib.sha256("\n".join(sorted((first, second))).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "dev" if place < DEV else "test" if place < DEV + TEST else "train"


def as_the_course(paths: Mapping[str, Path]) -> Cut | str:
    """The STS Benchmark's pairs, cut as the CS224N project cuts them; or why that cannot be done.

    `course_sts.txt` holds hashes of the pairs in the project's dev and test: no text, and none can be had from it.
    """
    rows = [
        row
        for split, path in paths.items()
        for row in _rows(read_table(path), path, f"{split}-", ("sentence1", "sentence2", "score"))
    ]
    left = {split: Counter(keys) for split, keys in _membership().items()}
    cut: dict[str, list[Row]] = {split: [] for split in COURSE}
    for row in rows:
        key = pair_key(row["sentence1"], row["sentence2"], row["score"])
        split = next((name for name, keys in left.items() if keys[key] > 0), "train")
        if split != "train":
            left[split][key] -= 1
        cut[split].append(row)
    if lost := sum(keys.total() for keys in left.values()):
        return f"{lost:,} of the {COURSE['dev'] + COURSE['test']:,} pairs in its dev and test are not in these files"
    if len(rows) != sum(COURSE.values()):
        return f"these files have {len(rows):,} pairs, not {sum(COURSE.values()):,}"
    return Cut(cut, "the CS224N project's")


def pair_key(first: str, second: str, score: float) -> str:
    """Ten digits for a scored pair; letter case, spaces and punctuation do not count."""
    words = "|".join(re.sub(r"[\W_]+", "", text.lower()) for text in (first, second))
    return hashlib.sha256(f"{words}|{float(score):.3f}".encode()).hexdigest()[:10]


def _membership() -> dict[str, list[str]]:
    """The project's dev and test as keys, with repetitions."""
    found: dict[str, list[str]] = {"dev": [], "test": []}
    for line in (files("benchkit.hub") / "course_sts.txt").read_text("utf-8").splitlines():
        split, *keys = line.split()
        if split in found:
            found[split] += keys
    return found


def _rows(table: Table, path: Path, prefix: str, columns: tuple[str, ...]) -> Iterable[Row]:
    """Each row's columns, and an id that says where it stood."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise UserError(f"{path.name} has no column {missing[0]!r}, only {', '.join(table.columns)}: another layout?")
    places = [table.columns.index(name) for name in columns]
    for line, cells in table.rows:
        yield {"id": f"{prefix}{line}", **{name: cells[at] for name, at in zip(columns, places, strict=True)}}


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON Lines: the same bytes wherever it is written."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
