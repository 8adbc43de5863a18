"""What tasks do to each other, and what controls reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchkit.analysis.results import likeness, name_seeds
from benchkit.analysis.statistics import Difference, Paired, paired_differences, spread
from benchkit.analysis.tables import Block, Row, Style, notes, table
from benchkit.core.errors import UserError
from benchkit.core.record import Record
from benchkit.core.task import TaskSpec
from benchkit.experiment.companions import ALONE
from benchkit.store.cells import CellStore

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.analysis.results import Stored
    from benchkit.core.record import Record


_ALIGN = ("left", "right", "right", "left", "left", "left")
_NOTE = (
    "Together: the head trained on all tasks; alone: on this one, with the same data, epochs and seeds; after the last "
    "phase. The interval holds the chance of training and of the examples; it is not corrected for the number of rows."
)


@dataclass(frozen=True)
class Run:
    """Records, and how to read their predictions."""

    records: Sequence[Record]
    read: Callable[[Record], pd.DataFrame]

    @classmethod
    def of(cls, records: Sequence[Record], store: CellStore) -> Run:
        return cls(records, lambda record: store.predictions(record.key))


@dataclass(frozen=True)
class Gain:
    """A head's score on one task, together minus alone; `split` is dev where test is unlabelled."""

    head: str
    task: str
    metric: str
    split: str
    seeds: tuple[int, ...]
    difference: Difference | None


def gains(together: Run, alone: Mapping[str, Run], tasks: Mapping[str, TaskSpec]) -> list[Gain]:
    """Of each task and head, over the seeds that have a number both together and alone.

    Args:
        alone: by task.
    """
    heads = dict.fromkeys(record.head for record in together.records)
    return [_gain(together, run, tasks[name], head) for name, run in alone.items() for head in heads]


def stored_gains(stored: Stored) -> list[Gain]:
    """`gains` of runs that were trained with `--single-task`, read back from the folders inside theirs; else none."""
    runs = {record.key: stored.folders[record.key].parent.parent for record in stored.records}
    found, folders = {}, dict(stored.folders)
    for task in stored.tasks:
        heads = {(runs[each.key], _likeness(each, task)): each.head for each in stored.records}
        records: dict[tuple[str, int], Record] = {}
        for run in dict.fromkeys(runs.values()):
            store = CellStore(run / ALONE / task / "cells", stored.log)
            for record in filter(None, map(store.load, store.keys())):
                if head := heads.get((run, _likeness(record, task))):
                    records[head, record.seed] = replace(record, head=head)
                    folders[record.key] = store.root / record.key
        if records:
            found[task] = list(records.values())

    def read(record: Record) -> pd.DataFrame:
        return CellStore(folders[record.key].parent).predictions(record.key)

    alone = {task: Run(records, read) for task, records in found.items()}
    return gains(Run(stored.records, read), alone, stored.tasks) if alone else []


def _likeness(record: Record, task: str) -> str:
    """What a cell shares with the one in the same run that was trained on this task alone."""
    return f"{record.identity['data'].get(task)} " + likeness(
        record.identity, ("head", "protocol", "seed", "execution", "encoder")
    )


def render_single_task(found: Sequence[Gain], style: Style = "terminal", columns: int = 100) -> str:
    """A block a task, a row a head."""
    titles = {gain.task: f"{gain.task} · {gain.metric} · {gain.split}" for gain in found}
    blocks = [
        Block(
            (title, "alone", "together", "together − alone", "95 % interval", ""),
            [_row(gain) for gain in found if gain.task == task],
            _ALIGN,
        )
        for task, title in titles.items()
    ]
    return f"{table(blocks, style)}\n\n{notes([_NOTE], style, columns)}"


def _gain(together: Run, alone: Run, task: TaskSpec, head: str) -> Gain:
    sides = [{r.seed: r for r in run.records if r.head == head and _counts(r)} for run in (alone, together)]
    seeds = tuple(seed for seed in sides[0] if seed in sides[1])
    if not seeds:
        return Gain(head, task.name, task.metric.name, "test", (), None)
    pairs = [tuple(side[seed] for side in sides) for seed in seeds]
    split = "test" if all(_labelled(record, task.name) for pair in pairs for record in pair) else "dev"
    (labels, first), (_, second) = (
        _predictions(run, [pair[side] for pair in pairs], task.name, split)
        for side, run in enumerate((alone, together))
    )
    found = paired_differences({task.name: Paired(labels, first, second, task.metric.score)})[task.name]
    return Gain(head, task.name, task.metric.name, split, seeds, found)


def _predictions(run: Run, records: Sequence[Record], task: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and predictions (seed, n)."""
    frames = []
    for record in records:
        frame = run.read(record)
        frames.append(frame[(frame["task"] == task) & (frame["split"] == split)])
    if any(list(frame["id"]) != list(frames[0]["id"]) for frame in frames):
        raise UserError(f"the predictions of {task} {split}, together and alone, are not of the same examples")
    return frames[0]["label"].to_numpy(float), np.stack([frame["prediction"].to_numpy(float) for frame in frames])


def _counts(record: Record) -> bool:
    return record.status in ("ok", "collapsed")


def _labelled(record: Record, task: str) -> bool:
    return any((score.task, score.split) == (task, "test") for score in record.phases[-1].scores)


def _row(gain: Gain) -> Row:
    found = gain.difference
    if found is None:
        return Row((gain.head, "–", "–", "–", "no seed with a number in both", ""))
    change = f"{found.value:+.3f}"
    interval, word = f"{name_seeds(gain.seeds)} only: unknown", ""
    if not math.isnan(found.low):
        interval = f"{found.low:+.3f} to {found.high:+.3f}"
        word = "gains" if found.low > 0 else "loses" if found.high < 0 else "cannot tell"
    return Row(
        (gain.head, *(f"{each:.3f}" for each in (found.a, found.b)), *(_minus(e) for e in (change, interval)), word)
    )


def _minus(text: str) -> str:
    return text.replace("-", "−")


_ALIGN_INTERFERENCE = ("left", "left", "right", "right", "right", "right")
_NOTE_INTERFERENCE = (
    "Cosine of two tasks' gradients on what they share, after each epoch, on a fixed batch of each, dropout off; mean "
    "over seeds, ± their standard deviation. Below 0, a step for the one task undoes some of the other's. It was "
    "measured beside the training and changes no number of it."
)


def render_interference(records: Sequence[Record], style: Style = "terminal", columns: int = 100) -> str:
    """A block a phase and shared part, a row a head and pair of tasks; "" where nothing was measured."""
    blocks = list(_blocks(records))
    return f"{table(blocks, style)}\n\n{notes([_NOTE], style, columns)}" if blocks else ""


def _blocks(records: Sequence[Record]) -> Iterator[Block]:
    found = _collect(records)
    for phase, part in dict.fromkeys(key[:2] for key in found):
        rows = [_row_interference(key[2], key[3], found[key]) for key in found if key[:2] == (phase, part)]
        header = (f"{phase} · {part}", "tasks", "first epoch", "last epoch", "all epochs", "below 0")
        yield Block(header, rows, _ALIGN_INTERFERENCE)


def _collect(records: Sequence[Record]) -> dict[tuple[str, str, str, str], list[list[float]]]:
    """By phase, part, head and pair: the cosines of each seed, in the order of the epochs."""
    found: dict[tuple[str, str, str, str], list[list[float]]] = {}
    for record in records:
        for phase in record.phases:
            seeds: dict[tuple[str, str, str, str], list[float]] = {}
            for each in phase.interference or ():
                seeds.setdefault((phase.name, each.part, record.head, f"{each.a} · {each.b}"), []).append(each.value)
            for key, values in seeds.items():
                found.setdefault(key, []).append(values)
    return found


def _row_interference(head: str, pair: str, seeds: Sequence[Sequence[float]]) -> Row:
    means = [sum(values) / len(values) for values in seeds]
    every = [value for values in seeds for value in values]
    below = sum(value < 0 for value in every) / len(every)
    columns: Mapping[str, list[float]] = {
        "first": [values[0] for values in seeds],
        "last": [values[-1] for values in seeds],
        "all": means,
    }
    return Row((head, pair, *(_number(values) for values in columns.values()), f"{below:.0%}"))


def _number(values: Sequence[float]) -> str:
    over = spread(values)
    text = f"{over.mean:+.2f}" + (f" ± {over.std:.2f}" if over.n > 1 else "")
    return text.replace("-0.00", "+0.00").replace("-", "−")
