"""From a repository's files to a task's splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchkit.data.tables import Table, read_table
from benchkit.errors import UserError

Row = Mapping[str, Any]

DEV, TEST = 0.05, 0.10
"""Shares of Quora's dev and test: those of the CS224N project."""


def by_hash(path: Path) -> dict[str, list[Row]]:
    """Quora's pairs, drawn into dev and test by the hash of the two questions.

    The same pair, turned round too, is always in the same split, whatever else the file holds.
    """
    rows: dict[str, list[Row]] = {"train": [], "dev": [], "test": []}
    for row in _rows(read_table(path), path, "q", ("sentence1", "sentence2", "label")):
        rows[_draw(str(row["sentence1"]), str(row["sentence2"]))].append(row)
    return rows


def _draw(first: str, second: str) -> str:
    digest = hashlib.sha256("\n".join(sorted((first, second))).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return "dev" if place < DEV else "test" if place < DEV + TEST else "train"


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
