"""Whether two runs may be compared: what differs between them, sorted by what a user may have meant."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchkit.analysis.results import MEAN, Stored
from benchkit.analysis.statistics import Paired, paired_differences, spread
from benchkit.core.errors import UserError
from benchkit.core.identity import Change, changes, parts_of, tell
from benchkit.core.record import Record

if TYPE_CHECKING:
    from benchkit.core.record import PhaseResult, Record
    from benchkit.core.task import TaskSpec


ACROSS = ("data", "protocol", "machine", "encoder")
"""Differences that must be meant; those of the head and of the code are what a comparison is for."""
_HARDWARE = ("processor", "device")

Pair = tuple[Record, Record]


def differences(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """What differs between the cells of A and those of B, a line each, by kind: one of `ACROSS`, `head` or `code`."""
    found: dict[str, list[str]] = {}
    for a, b in pairs:
        old, new = parts_of(a), parts_of(b)
        for change in changes(a.identity, b.identity):
            found.setdefault(_kind(change), []).append(tell(change, old, new))
        for name in _HARDWARE:
            was, now = (str(each.environment.get(name, "unknown")) for each in (a, b))
            if was != now:
                found.setdefault("machine", []).append(f"{name}: {was} → {now}")
    return {kind: list(dict.fromkeys(lines)) for kind, lines in found.items()}


def refuse(found: dict[str, list[str]], across: Collection[str]) -> None:
    """Stop at a difference that nobody said is meant.

    Raises:
        UserError: names the difference and the option.
    """
    for kind in ACROSS:
        lines = found.get(kind, [])
        if lines and kind not in across:
            more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
            raise UserError(
                f"the two runs differ in {kind} ({lines[0]}{more}): say --across {kind} if that is the difference meant"
            )


def _kind(change: Change) -> str:
    part, last = change.path[0], change.path[-1]
    if part == "execution":
        return "machine"
    if part == "tasks":
        return "code" if last == "source" else "protocol" if last in ("loss", "order") else "data"
    return {"data": "data", "protocol": "protocol", "encoder": "encoder", "engine": "code"}.get(
        part, "code" if last == "source" else "head"
    )


POINTS = 100.0
"""Points of accuracy, or of Pearson's r, in one."""
MEAN_NAME = f"{MEAN}.score"
SHARES = ("speed.train", "speed.eval", "memory.peak")


@dataclass(frozen=True)
class Measure:
    """One quantity of one head.

    Attributes:
        name: `TASK.METRIC`, `mean.score`, or one of `SHARES`.
        a, b: means over seeds; a metric as it is, steps a second, examples a second, or bytes.
        change: B minus A in points, or B over A minus one in per cent; `low`, `high` its 95 % interval, NaN where
            one seed leaves it unknown.
    """

    head: str
    name: str
    a: float
    b: float
    change: float
    low: float
    high: float

    @property
    def share(self) -> bool:
        return self.name in SHARES

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def quality(head: str, pairs: Sequence[Pair], a: Stored, b: Stored, split: str) -> list[Measure]:
    """Each task's metric and their mean on one split, after each cell's last phase.

    Where both were scored on the same examples, the interval holds the chance of training and that of the examples;
    else only the seeds can be paired, and it is the t-interval of their differences.
    """
    tasks = [name for name in a.tasks if name in b.tasks]
    if not all(_same_examples(pair, task, split) for pair in pairs for task in tasks):
        return _by_seed(head, pairs, {name: a.tasks[name] for name in tasks}, split)
    found = paired_differences({name: _paired(a.tasks[name], pairs, a, b, split) for name in tasks})
    names = points([a.tasks[name] for name in tasks])
    return [
        Measure(head, names[key], each.a, each.b, POINTS * each.value, POINTS * each.low, POINTS * each.high)
        for key, each in found.items()
        if key in names
    ]


def points(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    """What can be compared in points, by task; the mean over tasks where there are several."""
    names = {task.name: f"{task.name}.{task.metric.name}" for task in tasks}
    return {**names, MEAN: MEAN_NAME} if len(names) > 1 else names


def costs(head: str, pairs: Sequence[Pair]) -> list[Measure]:
    """Speed and memory, seed by seed; a quantity that a record does not have is left out."""
    readers: dict[str, Callable[[Record], float]] = {
        "speed.train": lambda record: _rate(_steps, record),
        "speed.eval": lambda record: _rate(_evaluations, record),
        "memory.peak": lambda record: float(record.peak_memory_bytes),
    }
    found = []
    for name, read in readers.items():
        values = [(read(a), read(b)) for a, b in pairs]
        if all(old > 0 and new > 0 for old, new in values):
            logs = spread(math.log(new / old) for old, new in values)
            change, low, high = (100 * math.expm1(value) for value in (logs.mean, logs.low, logs.high))
            found.append(Measure(head, name, *_means(values), change, low, high))
    return found


def _same_examples(pair: Pair, task: str, split: str) -> bool:
    a, b = (record.identity["data"].get(task, {}).get(split) for record in pair)
    return a is not None and a == b


def _paired(task: TaskSpec, pairs: Sequence[Pair], a: Stored, b: Stored, split: str) -> Paired:
    frames = [
        [
            side.predictions(record, record.phases[-1].name, task.name, split)
            for side, record in zip((a, b), pair, strict=True)
        ]
        for pair in pairs
    ]
    first = frames[0][0]
    if any(not frame.index.equals(first.index) for both in frames for frame in both):
        raise UserError(f"the predictions of {task.name} {split} are not of the same examples; run the cells again")
    old, new = (np.stack([both[side]["prediction"].to_numpy(float) for both in frames]) for side in (0, 1))
    return Paired(first["label"].to_numpy(float), old, new, task.metric.score)


def _by_seed(head: str, pairs: Sequence[Pair], tasks: Mapping[str, TaskSpec], split: str) -> list[Measure]:
    columns = {name: [(_score(x, name, split), _score(y, name, split)) for x, y in pairs] for name in tasks}
    columns[MEAN] = [_means(seed) for seed in zip(*columns.values(), strict=True)]
    found = []
    for key, name in points(list(tasks.values())).items():
        column = columns[key]
        over = spread(POINTS * (new - old) for old, new in column)
        found.append(Measure(head, name, *_means(column), over.mean, over.low, over.high))
    return found


def _means(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    a, b = (float(np.mean(side)) for side in zip(*values, strict=True))
    return a, b


def _score(record: Record, task: str, split: str) -> float:
    return next(each.value for each in record.phases[-1].scores if (each.task, each.split) == (task, split))


def _rate(amount: Callable[[PhaseResult], tuple[float, float]], record: Record) -> float:
    """Amount a second over all phases; 0 where no time was taken."""
    done, seconds = (sum(column) for column in zip(*map(amount, record.phases), strict=True))
    return done / seconds if seconds > 0 else 0.0


def _steps(phase: PhaseResult) -> tuple[float, float]:
    return phase.steps, phase.train_seconds


def _evaluations(phase: PhaseResult) -> tuple[float, float]:
    """Examples scored: dev after each epoch, every split at the end."""
    dev = sum(score.n for score in phase.scores if score.split == "dev")
    return phase.epochs * dev + sum(score.n for score in phase.scores), phase.eval_seconds
