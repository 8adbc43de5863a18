"""What tasks do to each other: training together against alone, and whether their gradients agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchkit.analysis.results import COUNTED, cell_predictions, load_cells, shared_identity, stack_predictions
from benchkit.analysis.statistics import Difference, Paired, paired_differences, spread
from benchkit.analysis.tables import NOTHING, Block, Row, Section, interval, name_seeds, number, plus_minus
from benchkit.experiment.companions import ALONE

if TYPE_CHECKING:
    from pathlib import Path

    from benchkit.analysis.results import Stored
    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec


_GAINS_NOTE = (
    "Together: the head trained on all tasks; alone: on this one, with the same data, epochs and seeds; after the last "
    "phase. The interval holds the chance of training and of the examples; it is not corrected for the number of rows."
)


@dataclass(frozen=True)
class Gain:
    """A head's score on one task, together minus its single-task baseline; `split` is dev where test has no labels."""

    head: str
    task: str
    metric: str
    split: str
    seeds: tuple[int, ...]
    difference: Difference | None


def gains(
    together: Sequence[Record],
    baselines: Mapping[str, Sequence[Record]],
    tasks: Mapping[str, TaskSpec],
    folders: Mapping[str, Path],
) -> list[Gain]:
    """Of each task and head, over the seeds that have a number both together and alone.

    Args:
        baselines: the same heads trained on one task, by task.
        folders: of all cells, by key.

    Raises:
        UserError: predictions cannot be read, or are not of the same examples.
    """
    heads = dict.fromkeys(record.head for record in together)
    return [_gain(each, together, tasks[name], head, folders) for name, each in baselines.items() for head in heads]


def stored_gains(stored: Stored) -> list[Gain]:
    """`gains` of runs with single-task baselines, read back from the folders inside theirs; none for other runs."""
    runs = {record.key: stored.folders[record.key].parent.parent for record in stored.records}
    found, folders = {}, dict(stored.folders)
    for task in stored.tasks:
        cells = [(run, *each) for run in dict.fromkeys(runs.values())
                 for each in load_cells(run / ALONE / task / "cells", stored.log)]  # fmt: skip
        if not cells:
            continue
        heads = {(runs[each.key], _match_key(each, task)): each.head for each in stored.records}
        records: dict[tuple[str, int], Record] = {}
        for run, record, folder in cells:
            if head := heads.get((run, _match_key(record, task))):
                records[head, record.seed] = replace(record, head=head)
                folders[record.key] = folder
        if records:
            found[task] = list(records.values())

    return gains(stored.records, found, stored.tasks, folders)


def _match_key(record: Record, task: str) -> str:
    """What a cell shares with the one in the same run that was trained on this task alone."""
    shared = shared_identity(record, ("head", "protocol", "seed", "execution", "encoder"))
    return f"{record.identity['data'].get(task)} {shared}"


def gains_section(found: Sequence[Gain]) -> Section | None:
    """A block a task, a row a head; None where nothing was trained on single tasks."""
    titles = {gain.task: f"{gain.task} · {gain.metric} · {gain.split}" for gain in found}
    blocks = [
        Block(
            (title, "alone", "together", "together − alone", "95 % interval", ""),
            [_row(gain) for gain in found if gain.task == task],
            ("left", "right", "right", "left", "left", "left"),
        )
        for task, title in titles.items()
    ]
    return Section("", blocks, [_GAINS_NOTE]) if blocks else None


def _gain(
    alone: Sequence[Record], together: Sequence[Record], task: TaskSpec, head: str, folders: Mapping[str, Path]
) -> Gain:
    sides = [{r.seed: r for r in side if r.head == head and r.status in COUNTED} for side in (alone, together)]
    seeds = tuple(seed for seed in sides[0] if seed in sides[1])
    if not seeds:
        return Gain(head, task.name, task.metric.name, "test", (), None)
    records = [side[seed] for side in sides for seed in seeds]
    split = "test" if all(_labelled(record, task.name) for record in records) else "dev"
    frames = [cell_predictions(folders[each.key], each.predictions_sha256)[task.name, split] for each in records]
    labels, predictions = stack_predictions(frames, f"{task.name} {split}, together and alone,")
    pair = Paired(labels, predictions[: len(seeds)], predictions[len(seeds) :], task.metric.score)
    difference = paired_differences({task.name: pair})[task.name]
    return Gain(head, task.name, task.metric.name, split, seeds, difference)


def _labelled(record: Record, task: str) -> bool:
    return any((score.task, score.split) == (task, "test") for score in record.phases[-1].scores)


def _row(gain: Gain) -> Row:
    found = gain.difference
    if found is None:
        return Row((gain.head, NOTHING, NOTHING, NOTHING, "no seed with a number in both", ""))
    between, word = f"{name_seeds(gain.seeds)} only: unknown", ""
    if not math.isnan(found.low):
        between = interval(found.low, found.high)
        word = "gains" if found.low > 0 else "loses" if found.high < 0 else "cannot tell"
    return Row((gain.head, number(found.a), number(found.b), number(found.value, signed=True), between, word))


_COSINES_NOTE = (
    "Cosine of two tasks' gradients on what they share, after each epoch, on a fixed batch of each, dropout off; mean "
    "over seeds, ± their standard deviation. Below 0, a step for the one task undoes some of the other's. It was "
    "measured apart from the training and changes no number of it."
)


def interference_section(records: Sequence[Record]) -> Section | None:
    """A block a phase and shared part, a row a head and pair of tasks; None where nothing was measured."""
    found, blocks = _cosines(records), []
    for phase, part in dict.fromkeys(key[:2] for key in found):
        rows = [_cosine_row(head, pair, found[phase, part, head, pair])
                for (*_, head, pair) in (key for key in found if key[:2] == (phase, part))]  # fmt: skip
        header = (f"{phase} · {part}", "tasks", "first epoch", "last epoch", "all epochs", "below 0")
        blocks.append(Block(header, rows, ("left", "left", "right", "right", "right", "right")))
    return Section("", blocks, [_COSINES_NOTE]) if blocks else None


def _cosines(records: Sequence[Record]) -> dict[tuple[str, str, str, str], list[list[float]]]:
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


def _cosine_row(head: str, pair: str, seeds: Sequence[Sequence[float]]) -> Row:
    every = [value for values in seeds for value in values]
    columns = (
        [values[0] for values in seeds],
        [values[-1] for values in seeds],
        [sum(values) / len(values) for values in seeds],
    )
    words = [plus_minus(spread(values), signed=True, digits=2).replace("−0.00", "+0.00") for values in columns]
    return Row((head, pair, *words, f"{sum(value < 0 for value in every) / len(every):.0%}"))
