"""What tasks do to each other: training together against alone, and whether their gradients agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from benchkit.analysis.results import COUNTED, paired_predictions, shared_identity
from benchkit.analysis.statistics import Difference, paired_differences, spread
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
    found, folders = {}, dict(stored.folders)
    for task in stored.tasks:
        if cells := stored.companions(f"{ALONE}/{task}", partial(_match_key, task=task)):
            found[task] = [each.record for each in cells]
            folders |= {each.record.key: each.folder for each in cells}
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
            [_gain_row(gain) for gain in found if gain.task == task],
            ("left", "right", "right", "left", "left", "left"),
        )
        for task, title in titles.items()
    ]
    return Section("", blocks, [_GAINS_NOTE]) if blocks else None


def _gain(
    alone: Sequence[Record], together: Sequence[Record], task: TaskSpec, head: str, folders: Mapping[str, Path]
) -> Gain:
    sides = [{r.seed: r for r in side if r.head == head and r.status in COUNTED} for side in (alone, together)]
    seeds = tuple(sorted(sides[0].keys() & sides[1].keys()))
    if not seeds:
        return Gain(head, task.name, task.metric.name, "test", (), None)
    a, b = ([side[seed] for seed in seeds] for side in sides)
    scored = [{(s.task, s.split) for s in record.phases[-1].scores} for record in (*a, *b)]
    split = "test" if all((task.name, "test") in each for each in scored) else "dev"
    pair = paired_predictions(task, split, (a, folders), (b, folders))
    return Gain(head, task.name, task.metric.name, split, seeds, paired_differences({task.name: pair})[task.name])


def _gain_row(gain: Gain) -> Row:
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
