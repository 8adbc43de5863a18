"""Describes a data folder and finds its problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from benchkit.core.task import TaskSpec
from benchkit.data.readers import REQUIRED, load_data
from benchkit.data.splits import BrokenRow, Split

LEAK = 0.05
"""Share of dev or test that may occur, exact and whole, in train: the STS Benchmark's own dev has 1.5 %."""


Row = dict[str, Any]
"""A row of a table, by the heads of its columns."""


@dataclass(frozen=True)
class DataCheck:
    """The findings of `check_data`, as rows of tables.

    Attributes:
        splits: for each split, the number of rows; the mean, 95th percentile and largest number of words a text, split
            at white space; `duplicates`, the rows whose texts occurred before in the split; and how many of these have
            another label.
        labels: number of rows of each class, or in each fifth of the range of scores.
        shared: exact matches between two splits: rows with all texts equal, and rows with at least one text equal.
        problems: reasons why the data is unusable or its numbers are meaningless.
    """

    source: str
    splits: tuple[Row, ...]
    labels: tuple[Row, ...]
    shared: tuple[Row, ...]
    files: tuple[Row, ...]
    broken: tuple[BrokenRow, ...]
    problems: tuple[str, ...]

    @property
    def usable(self) -> bool:
        return not self.problems


def check_data(source: str | Path, tasks: Sequence[TaskSpec]) -> DataCheck:
    """Read and measure all splits of `tasks` in a folder, or of their `demo` data.

    These are problems: train or dev is missing, a class has no example in train or dev, the scores fill less than half
    of their range, or more than 5 % of dev or test is in train.

    Raises:
        UserError: the folder does not exist or has none of the tasks, or a file cannot be used at all.
    """
    problems: list[str] = []
    data = load_data(source, tasks, problems)
    pairs = [(split, task) for task in tasks for split in data[task.name].values()]
    problems += [problem for split, task in pairs for problem in label_problems(split, task)]
    shared = []
    for task in tasks:
        for first, second in combinations(data[task.name].values(), 2):
            row = _compare(first, second)
            shared.append(row)
            if first.name == "train" and row["whole rows"] > LEAK * len(second):
                whole = f"{row['whole rows']} of {len(second)} {second.name} rows ({row['share']}) are in train"
                problems.append(f"{task.name}: {whole}")
    return DataCheck(
        source=str(source),
        splits=tuple(_measure(split) for split, _ in pairs),
        labels=tuple(row for split, task in pairs for row in _labels(split, task)),
        shared=tuple(shared),
        files=tuple({**_name(split), "read from": split.source, "sha256": split.sha256} for split, _ in pairs),
        broken=tuple(row for split, _ in pairs for row in split.broken),
        problems=tuple(problems),
    )


def _name(split: Split) -> Row:
    return {"task": split.task, "split": split.name}


def _measure(split: Split) -> Row:
    words = np.array([len(text.split()) for texts in split.texts for text in texts])
    first: dict[tuple[str, ...], float] = {}
    duplicates = conflicts = 0
    for texts, label in zip(split.texts, split.labels.tolist(), strict=True):
        duplicates += texts in first
        conflicts += split.labelled and label != first.setdefault(texts, label)
    lengths = {"words": float(words.mean()), "p95": float(np.percentile(words, 95)), "max": int(words.max())}
    found = {"duplicates": duplicates, "other label": conflicts}
    odd = {"repeated ids": split.repeated_ids, "broken": len(split.broken)}
    return {**_name(split), "rows": len(split), **lengths, **found, **odd}


def _labels(split: Split, task: TaskSpec) -> list[Row]:
    if not split.labelled:
        return [{**_name(split), "label": "unlabelled", "rows": len(split), "share": ""}]
    counts = _balance(split, task).items()
    return [{**_name(split), "label": name, "rows": n, "share": f"{n / len(split):.1%}"} for name, n in counts]


def _balance(split: Split, task: TaskSpec) -> dict[str, int]:
    """Number of rows of each class, or in each fifth of the score's range."""
    if task.classes:
        counts = np.bincount(split.labels.astype(int), minlength=len(task.classes))
        return dict(zip(task.classes, counts.tolist(), strict=True))
    counts, edges = np.histogram(split.labels, bins=5, range=(task.low, task.high))
    names = [f"{low:g}–{high:g}" for low, high in pairwise(edges)]
    return dict(zip(names, counts.tolist(), strict=True))


def _compare(first: Split, second: Split) -> Row:
    whole = set(first.texts)
    single = {text for texts in first.texts for text in texts}
    rows = sum(texts in whole for texts in second.texts)
    touched = sum(any(text in single for text in texts) for texts in second.texts)
    counts = {"whole rows": rows, "share": f"{rows / len(second):.1%}", "rows sharing a text": touched}
    return {"task": first.task, "rows of": second.name, "also in": first.name, **counts}


def label_problems(split: Split, task: TaskSpec) -> list[str]:
    """Problems of a split's labels, one line each: a missing class, or scores in another range."""
    if not split.labelled:
        return []
    where = f"{task.name} {split.name}"
    if task.classes:
        absent = [name for name, count in _balance(split, task).items() if not count]
        return [f"{where}: no example of {', '.join(absent)}"] if absent and split.name in REQUIRED else []
    low, high = float(split.labels.min()), float(split.labels.max())
    if high - low < (task.high - task.low) / 2:
        wide = f"scores from {low:g} to {high:g} fill less than half of {task.low:g} to {task.high:g}"
        return [f"{where}: {wide}; rescale them?"]
    return []


SHOWN = 20
"""Broken rows listed for each file."""


def render(check: DataCheck) -> str:
    """Tables for a terminal: splits, labels, what splits share, files, broken rows, problems."""
    tables = {
        "Splits (words are split at white space; mean, 95th percentile and longest of a text)": check.splits,
        "Labels": check.labels,
        "Shared between splits, exact text": check.shared,
        "Files": check.files,
    }
    formats = ("g", "g", "g", ".1f", ".0f")
    parts = [
        f"{title}\n" + tabulate(rows, headers="keys", tablefmt="simple", floatfmt=formats)
        for title, rows in tables.items()
        if rows
    ]
    for file, rows in groupby(check.broken, key=lambda row: row.file):
        listed = [f"  {row}" for row in rows]
        more = [f"  and {len(listed) - SHOWN} more"] if len(listed) > SHOWN else []
        parts.append("\n".join([f"Broken rows of {file}, left out", *listed[:SHOWN], *more]))
    problems = [f"  {problem}" for problem in check.problems]
    return "\n\n".join([*parts, "\n".join(["Problems", *problems]) if problems else f"{check.source} is usable."])
