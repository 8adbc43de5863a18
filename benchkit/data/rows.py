"""From a table to a split: which column is what, which rows are usable, which labels are wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from benchkit.data.split import BrokenRow, Split, content_sha256
from benchkit.data.tables import Table
from benchkit.errors import UserError
from benchkit.task import TaskSpec

ID_NAMES = ("id", "idx", "index")
HANDFUL = 5
"""Broken rows that are left out of any file; a file with more than 1 % as well as more than these is wrong."""


class _BadRowError(Exception):
    """Why a row is left out."""


def to_split(table: Table, task: TaskSpec, split: str, path: Path, name: str) -> Split:
    """The usable rows of a table.

    Args:
        path: the file, for errors; `name` is what records call it.

    Raises:
        UserError: a column is missing, a label is out of range, or too many rows are broken.
    """
    columns = [column.strip() for column in table.columns]
    texts = [_column(columns, each, task, path) for each in task.texts]
    label = _label_column(columns, table, task, split, path)
    number = next((columns.index(each) for each in (*task.aliases.get("id", ()), *ID_NAMES) if each in columns), None)

    rows: list[tuple[str, tuple[str, ...], float]] = []
    broken = [BrokenRow(name, line, reason) for line, reason in table.bad]
    for line, cells in table.rows:
        try:
            row = _texts(cells, texts, task)
            value = math.nan if label is None else _label(cells[label], task, path, line)
        except _BadRowError as bad:
            broken.append(BrokenRow(name, line, str(bad)))
            continue
        given = "" if number is None or cells[number] is None else str(cells[number]).strip()
        rows.append((given or str(line), row, value))
    broken.sort(key=lambda each: each.line)
    _check_broken(broken, len(rows), path)

    ids, repeated = _distinct([row[0] for row in rows])
    labels = np.array([row[2] for row in rows], dtype=np.float64)
    split_texts = tuple(row[1] for row in rows)
    labels_from = "unlabelled" if label is None else f"label from {columns[label]}"
    read_from = ", ".join(columns[each] for each in texts)
    return Split(
        task=task.name,
        name=split,
        ids=ids,
        texts=split_texts,
        labels=labels,
        source=f"{name} ({table.dialect}; texts from {read_from}; {labels_from})" if table.dialect else name,
        sha256=table.sha256 or content_sha256(ids, split_texts, labels),
        broken=tuple(broken),
        repeated_ids=repeated,
    )


def _column(columns: Sequence[str], wanted: str, task: TaskSpec, path: Path) -> int:
    names = (wanted, *task.aliases.get(wanted, ()))
    for name in names:
        if columns.count(name) > 1:
            raise UserError(f"{path} has {columns.count(name)} columns named {name!r}: keep one")
        if name in columns:
            return columns.index(name)
    named = [column if len(column) <= 30 else column[:29] + "…" for column in columns if column]
    near = next((match[0] for name in names if (match := get_close_matches(name, named, n=1))), None)
    hint = f"; did you mean {near!r}? Rename it" if near else "; is there a header row?"
    other = f" (or {', '.join(names[1:])})" if names[1:] else ""
    raise UserError(f"{path} has no column {wanted!r}{other}, only {', '.join(named) or 'unnamed ones'}{hint}")


def _label_column(columns: Sequence[str], table: Table, task: TaskSpec, split: str, path: Path) -> int | None:
    """The label's column; None for a test split without labels."""
    names = (task.label, *task.aliases.get(task.label, ()))
    if split == "test" and not any(name in columns for name in names):
        return None
    column = _column(columns, task.label, task, path)
    if split == "test" and all(_is_blank(cells[column], task) for _, cells in table.rows):
        return None
    return column


def _is_blank(value: Any, task: TaskSpec) -> bool:
    """Whether a test label says "none": empty, or -1 as in Hugging Face's GLUE, where -1 is no label of the task."""
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return True
    low = 0 if task.classes else task.low
    return low > -1 and str(value).strip() in ("-1", "-1.0")


def _texts(cells: Sequence[Any], columns: Sequence[int], task: TaskSpec) -> tuple[str, ...]:
    found = []
    for name, column in zip(task.texts, columns, strict=True):
        value = cells[column]
        if value is None or (isinstance(value, str) and not (value := value.strip())):
            raise _BadRowError(f"empty {name}")
        if not isinstance(value, str):
            raise _BadRowError(f"{name} is not text but {value!r}")
        found.append(value)
    return tuple(found)


def _label(value: Any, task: TaskSpec, path: Path, line: int) -> float:
    """A class index, given as such or by name, or a score."""
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _BadRowError("label missing")
    if isinstance(value, str) and value.strip() in task.classes:
        return float(task.classes.index(value.strip()))
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _BadRowError(f"label {value!r} is not a number") from None
    if math.isnan(number):
        raise _BadRowError("label missing (NaN)")
    low, high = (0, len(task.classes) - 1) if task.classes else (task.low, task.high)
    if not low <= number <= high or (task.classes and not number.is_integer()):
        kind = f"a class from {low} to {high}" if task.classes else f"a score from {low:g} to {high:g}"
        raise UserError(f"{path}:{line}: label {value} out of range: {task.name} takes {kind}; is this the right file?")
    return number


def _check_broken(broken: Sequence[BrokenRow], usable: int, path: Path) -> None:
    if not broken and not usable:
        raise UserError(f"{path} has a header and no rows: is the file whole?")
    total = usable + len(broken)
    if not usable or (len(broken) > HANDFUL and len(broken) * 100 > total):
        first = f"the first in line {broken[0].line}: {broken[0].reason}"
        raise UserError(f"{path}: {len(broken)} of {total} rows are broken, {first}; is this the right file?")


def _distinct(ids: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Ids with a suffix on the second and later occurrence, and how many got one; predictions are paired by id."""
    if len(set(ids)) == len(ids):
        return tuple(ids), 0
    taken, seen, result, repeated = set(ids), set[str](), [], 0
    for each in ids:
        name, count = each, 2
        while name in seen or (name != each and name in taken):
            name, count = f"{each}#{count}", count + 1
        repeated += name != each
        seen.add(name)
        result.append(name)
    return tuple(result), repeated
