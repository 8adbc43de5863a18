"""What a data folder holds, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from benchkit.core.task import TaskSpec
from benchkit.data.readers import DEMO, REQUIRED, check_folder, find_splits, load_demo, load_files, load_own, missing
from benchkit.data.splits import BrokenRow, Split

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

    task: str
    name: str
    rows: int
    labelled: bool
    balance: Mapping[str, int]
    words: tuple[float, float, int]
    duplicates: int
    conflicts: int
    repeated_ids: int
    broken: tuple[BrokenRow, ...]
    source: str
    sha256: str


@dataclass(frozen=True)
class Shared:
    """What `second` shares, exactly, with `first`: rows with all texts alike, and rows with at least one text."""

    task: str
    first: str
    second: str
    rows: int
    rows_with_a_text: int
    of: int


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
    data: dict[str, dict[str, Split]] = {}
    problems = []
    if str(source) == DEMO and not isinstance(source, Path):
        data = {task.name: load_demo(task) for task in tasks}
    else:
        folder = Path(source)
        check_folder(folder)
        found = {task.name: find_splits(folder, task) for task in tasks}
        own = [task for task in tasks if task.data is not None and not found[task.name]]
        whole = [name for name, paths in found.items() if all(split in paths for split in REQUIRED)]
        if not any(found.values()) and not own:
            raise missing(folder, tasks[0], REQUIRED[0], whole)
        for task in tasks:
            if task in own:
                data[task.name] = load_own(task)
                continue
            data[task.name] = load_files(folder, found[task.name], task)
            problems += [str(missing(folder, task, name, whole)) for name in REQUIRED if name not in found[task.name]]
    splits, shared = [], []
    for task in tasks:
        mine = data[task.name]
        splits += [_measure(split, task) for split in mine.values()]
        shared += [_compare(mine[first], mine[second]) for first, second in combinations(mine, 2)]
        problems += [problem for split in mine.values() for problem in label_problems(split, task)]
    problems += [
        f"{each.task}: {each.rows} of {each.of} {each.second} rows ({each.rows / each.of:.1%}) are in train"
        for each in shared
        if each.first == "train" and each.rows > LEAK * each.of
    ]
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
    return SplitCheck(
        task=split.task,
        name=split.name,
        rows=len(split),
        labelled=split.labelled,
        balance=_balance(split, task) if split.labelled else {},
        words=(float(words.mean()), float(np.percentile(words, 95)), int(words.max())),
        duplicates=duplicates,
        conflicts=conflicts,
        repeated_ids=split.repeated_ids,
        broken=split.broken,
        source=split.source,
        sha256=split.sha256,
    )


def _balance(split: Split, task: TaskSpec) -> dict[str, int]:
    """Rows a class, or rows in each fifth of the score's range."""
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
    return Shared(first.task, first.name, second.name, rows, touched, len(second))


def label_problems(split: Split, task: TaskSpec) -> list[str]:
    """What is odd about a split's labels, a line each: a class missing, scores of another range."""
    if not split.labelled:
        return []
    where = f"{task.name} {split.name}"
    if task.classes:
        seen = Counter(split.labels.astype(int).tolist())
        absent = [name for index, name in enumerate(task.classes) if not seen[index]]
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
    yield _table(
        "Splits (words are split at white space; mean, 95th percentile and longest of a text)",
        ["task", "split", "rows", "words", "p95", "max", "duplicates", "other label", "repeated ids", "broken"],
        [
            (
                *(s.task, s.name, s.rows, f"{s.words[0]:.1f}", f"{s.words[1]:.0f}", s.words[2]),
                *(s.duplicates, s.conflicts, s.repeated_ids, len(s.broken)),
            )
            for s in check.splits
        ],
    )
    yield _table(
        "Labels",
        ["task", "split", "label", "rows", "share"],
        [
            row
            for s in check.splits
            for row in (
                [[s.task, s.name, label, n, f"{n / s.rows:.1%}"] for label, n in s.balance.items()]
                or [[s.task, s.name, "unlabelled", s.rows, ""]]
            )
        ],
    )
    if check.shared:
        yield _table(
            "Shared between splits, exact text",
            ["task", "rows of", "also in", "whole rows", "share", "rows sharing a text", "share"],
            [
                (
                    *(s.task, s.second, s.first, s.rows, f"{s.rows / s.of:.1%}"),
                    *(s.rows_with_a_text, f"{s.rows_with_a_text / s.of:.1%}"),
                )
                for s in check.shared
            ],
        )
    yield _table(
        "Files", ["task", "split", "read from", "sha256"], [[s.task, s.name, s.source, s.sha256] for s in check.splits]
    )
    for split in check.splits:
        if split.broken:
            more = len(split.broken) - SHOWN
            listed = [f"  {row}" for row in split.broken[:SHOWN]] + ([f"  and {more} more"] if more > 0 else [])
            yield "\n".join([f"Broken rows of {split.task} {split.name}, left out", *listed])
    if check.problems:
        yield "\n".join(["Problems", *(f"  {problem}" for problem in check.problems)])
    else:
        yield f"{check.source} is usable."


def _table(title: str, headers: list[str], rows: Sequence[Sequence[object]]) -> str:
    from tabulate import tabulate

    return f"{title}\n" + tabulate(rows, headers, tablefmt="simple")
