"""What a data folder holds, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchkit.core.task import TaskSpec
from benchkit.data.readers import REQUIRED, load_data
from benchkit.data.splits import Split

LEAK = 0.05
"""Share of dev or test that may occur, exact and whole, in train: the STS Benchmark's own dev has 1.5 %."""


@dataclass(frozen=True)
class SplitCheck:
    """One split in numbers.

    Attributes:
        balance: label (class name, or range of scores) -> rows; empty where unlabelled.
        words: mean, 95th percentile and largest number of words a text, split at white space.
        duplicates: rows whose texts occurred before in the split; `conflicts`: such with another label.
    """

    split: Split
    balance: Mapping[str, int]
    words: tuple[float, float, int]
    duplicates: int
    conflicts: int


@dataclass(frozen=True)
class Shared:
    """What `second` shares, exactly, with `first`: rows with all texts alike, and rows with at least one text."""

    first: Split
    second: Split
    rows: int
    rows_with_a_text: int


@dataclass(frozen=True)
class DataCheck:
    """The findings of `check_data`; `problems` are what makes the data unusable or its numbers worthless."""

    source: str
    splits: tuple[SplitCheck, ...]
    shared: tuple[Shared, ...]
    problems: tuple[str, ...]

    @property
    def usable(self) -> bool:
        return not self.problems


def check_data(source: str | Path, tasks: Sequence[TaskSpec]) -> DataCheck:
    """Read and measure all splits of `tasks` in a folder, or of their `demo` data.

    Problems are: train or dev missing, a class without an example in train or dev, scores that fill less than half
    of their range, and more than 5 % of dev or test in train.

    Raises:
        UserError: no such folder, none of the tasks in it, or a file that cannot be used at all.
    """
    problems: list[str] = []
    data = load_data(source, tasks, problems)
    splits, shared = [], []
    for task in tasks:
        mine = list(data[task.name].values())
        splits += [_measure(split, task) for split in mine]
        shared += [_compare(first, second) for first, second in combinations(mine, 2)]
        problems += [problem for split in mine for problem in label_problems(split, task)]
    for each in shared:
        rows, second = each.rows, each.second
        if each.first.name == "train" and rows > LEAK * len(second):
            share = f"{rows} of {len(second)} {second.name} rows ({rows / len(second):.1%})"
            problems.append(f"{second.task}: {share} are in train")
    return DataCheck(str(source), tuple(splits), tuple(shared), tuple(problems))


def _measure(split: Split, task: TaskSpec) -> SplitCheck:
    words = np.array([len(text.split()) for texts in split.texts for text in texts])
    first: dict[tuple[str, ...], float] = {}
    duplicates = conflicts = 0
    for texts, label in zip(split.texts, split.labels.tolist(), strict=True):
        if texts in first:
            duplicates += 1
            conflicts += split.labelled and label != first[texts]
        first.setdefault(texts, label)
    lengths = float(words.mean()), float(np.percentile(words, 95)), int(words.max())
    return SplitCheck(split, _balance(split, task), lengths, duplicates, conflicts)


def _balance(split: Split, task: TaskSpec) -> dict[str, int]:
    """Rows a class, or rows in each fifth of the score's range."""
    if not split.labelled:
        return {}
    if task.classes:
        counts = np.bincount(split.labels.astype(int), minlength=len(task.classes))
        return dict(zip(task.classes, counts.tolist(), strict=True))
    counts, edges = np.histogram(split.labels, bins=5, range=(task.low, task.high))
    names = [f"{low:g}–{high:g}" for low, high in pairwise(edges)]
    return dict(zip(names, counts.tolist(), strict=True))


def _compare(first: Split, second: Split) -> Shared:
    whole = set(first.texts)
    single = {text for texts in first.texts for text in texts}
    rows = sum(texts in whole for texts in second.texts)
    touched = sum(any(text in single for text in texts) for texts in second.texts)
    return Shared(first, second, rows, touched)


def label_problems(split: Split, task: TaskSpec) -> list[str]:
    """What is odd about a split's labels, a line each: a class missing, scores of another range."""
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
"""Broken rows listed for each split."""


def render(check: DataCheck) -> str:
    """Tables for a terminal: splits, labels, what splits share, files, broken rows, problems."""
    return "\n\n".join(_parts(check))


def _parts(check: DataCheck) -> Iterator[str]:
    splits = [each.split for each in check.splits]
    yield _table(
        "Splits (words are split at white space; mean, 95th percentile and longest of a text)",
        ["task", "split", "rows", "words", "p95", "max", "duplicates", "other label", "repeated ids", "broken"],
        [
            [
                *(s.task, s.name, len(s), f"{each.words[0]:.1f}", f"{each.words[1]:.0f}", each.words[2]),
                *(each.duplicates, each.conflicts, s.repeated_ids, len(s.broken)),
            ]
            for each, s in zip(check.splits, splits, strict=True)
        ],
    )
    labels = []
    for each, s in zip(check.splits, splits, strict=True):
        labels += [[s.task, s.name, label, n, f"{n / len(s):.1%}"] for label, n in each.balance.items()]
        labels += [] if s.labelled else [[s.task, s.name, "unlabelled", len(s), ""]]
    yield _table("Labels", ["task", "split", "label", "rows", "share"], labels)
    if check.shared:
        headers = ["task", "rows of", "also in", "whole rows", "share", "rows sharing a text", "share"]
        shared = []
        for found in check.shared:
            counts = [(n, f"{n / len(found.second):.1%}") for n in (found.rows, found.rows_with_a_text)]
            shared.append([found.second.task, found.second.name, found.first.name, *counts[0], *counts[1]])
        yield _table("Shared between splits, exact text", headers, shared)
    files = [[s.task, s.name, s.source, s.sha256] for s in splits]
    yield _table("Files", ["task", "split", "read from", "sha256"], files)
    for s in splits:
        if s.broken:
            more = [f"  and {len(s.broken) - SHOWN} more"] if len(s.broken) > SHOWN else []
            listed = [f"  {row}" for row in s.broken[:SHOWN]]
            yield "\n".join([f"Broken rows of {s.task} {s.name}, left out", *listed, *more])
    problems = [f"  {problem}" for problem in check.problems]
    yield "\n".join(["Problems", *problems]) if problems else f"{check.source} is usable."


def _table(title: str, headers: list[str], rows: Sequence[Sequence[object]]) -> str:
    return f"{title}\n" + tabulate(rows, headers, tablefmt="simple")
