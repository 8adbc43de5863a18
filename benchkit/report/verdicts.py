"""Which heads differ by more than chance, pair by pair, and which cannot be told apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from benchkit.errors import unknown
from benchkit.report.aso import min_epsilon
from benchkit.report.results import MEAN
from benchkit.stats import Array, Difference, Evidence, Score, differences, evidence, holm, mcnemar

if TYPE_CHECKING:
    from benchkit.record import Record
    from benchkit.report.stored import Stored

LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """Head `b` minus head `a`, over the seeds that both have, on one task or the mean of all.

    Attributes:
        split: `dev` where test is unlabelled.
        p_holm: corrected for the number of comparisons on this task; NaN below two seeds in common.
        mcnemar: a cross-check for classes, see `benchkit.stats.mcnemar`; None for scores and for the mean.
        aso: of the better over the worse, see `benchkit.report.aso`; None unless asked for.
    """

    phase: str
    task: str
    split: str
    a: str
    b: str
    difference: Difference
    p_holm: float
    mcnemar: float | None
    aso: float | None = None

    @property
    def differ(self) -> bool:
        """Whether the two can be told apart."""
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class _Side:
    """A head's predictions on one task."""

    seeds: tuple[int, ...]
    labels: Array
    predictions: Array = field(repr=False)
    evidence: Evidence = field(repr=False)

    def of(self, seeds: Sequence[int]) -> Evidence:
        rows = [self.seeds.index(seed) for seed in seeds]
        return Evidence(self.evidence.scores[rows], self.evidence.parts[rows])


def compare(
    stored: Stored, phase: str, split: str = "test", against: str | None = None, *, aso: bool = False
) -> list[Verdict]:
    """Compare each head with each other, or with one; task by task, then on their mean.

    Cells that failed or diverged have no say, collapsed ones have. Seeds are paired, so that only those count which
    both heads have. A task without labels on `split` is compared on dev.

    Args:
        phase: only cells whose last phase it is are compared: no others keep its predictions.
        against: a head of `stored.heads`; by default each pair, in the order of the heads.
        aso: also find the almost stochastic order, of all seeds that a head has.

    Raises:
        UserError: there is no head `against`; predictions of a cell cannot be read.
    """
    if against is not None and against not in stored.heads:
        raise unknown("head", against, stored.heads)
    records = [each for each in stored.records if _counts(stored, each, phase)]
    heads = list(dict.fromkeys(record.head for record in records))
    pairs = [(against, head) for head in heads if head != against] if against else list(combinations(heads, 2))
    splits = {task: split if _labelled(stored, records, phase, task, split) else "dev" for task in stored.tasks}
    same = set(splits.values()) == {split}
    sides = _sides(stored, records, phase, splits)
    found = list(_verdicts(pairs, sides, phase, splits, stored))
    if not same and len(stored.tasks) > 1:  # a mean of some tasks' test and others' dev means nothing
        splits = dict.fromkeys(stored.tasks, "dev")
        found = [each for each in found if each.task != MEAN]
        again = _verdicts(pairs, _sides(stored, records, phase, splits), phase, splits, stored)
        found += [each for each in again if each.task == MEAN]
    found = _corrected(found, [*stored.tasks, MEAN])
    return [replace(each, aso=_order(stored, each)) for each in found] if aso else found


def groups(verdicts: Sequence[Verdict], heads: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Heads that cannot be told apart, as largest groups: a head may be in several, as in a compact letter display
    (Piepho 2004). Heads that were not compared are not told apart.

    Args:
        verdicts: all pairs on one task.
        heads: in the order wanted, such as best first.
    """
    found: list[set[str]] = [set(heads)]
    for verdict in verdicts:
        if verdict.differ:
            found = [part for each in found for part in _without_pair(each, verdict.a, verdict.b)]
            found = _largest(found)
    ordered = [tuple(head for head in heads if head in each) for each in found if each]
    return tuple(sorted(ordered, key=lambda each: [heads.index(head) for head in each]))


def _without_pair(group: set[str], a: str, b: str) -> list[set[str]]:
    return [group - {a}, group - {b}] if {a, b} <= group else [group]


def _largest(sets: Sequence[set[str]]) -> list[set[str]]:
    """Without those that are part of another, or there already."""
    kept: list[set[str]] = []
    for each in sorted(sets, key=len, reverse=True):
        if not any(each <= other for other in kept):
            kept.append(each)
    return kept


def _counts(stored: Stored, record: Record, phase: str) -> bool:
    return record.status in ("ok", "collapsed") and stored.phase_of_predictions(record) == phase


def _labelled(stored: Stored, records: Sequence[Record], phase: str, task: str, split: str) -> bool:
    """Whether any cell of the phase was scored there."""
    return any(
        (score.task, score.split) == (task, split)
        for record in records
        for result in record.phases
        if result.name == phase
        for score in result.scores
    )


def _sides(
    stored: Stored, records: Sequence[Record], phase: str, splits: Mapping[str, str]
) -> dict[tuple[str, str], _Side]:
    """By head and task; a head that was not trained on a task has none."""
    rows: dict[tuple[str, str], dict[int, tuple[Array, Array]]] = {}
    for record in records:
        for task, split in splits.items():
            frame = stored.predictions(record, phase, task, split)
            if len(frame) and not frame["label"].isna().any():
                values = (frame["label"].to_numpy(float), frame["prediction"].to_numpy(float))
                rows.setdefault((record.head, task), {})[record.seed] = values
    return {key: _side(found, stored.tasks[key[1]].metric.score) for key, found in rows.items()}


def _side(found: Mapping[int, tuple[Array, Array]], score: Score) -> _Side:
    labels = next(iter(found.values()))[0]
    predictions = np.stack([each for _, each in found.values()])
    return _Side(tuple(found), labels, predictions, evidence(labels, predictions, score))


def _verdicts(
    pairs: Sequence[tuple[str, str]],
    sides: Mapping[tuple[str, str], _Side],
    phase: str,
    splits: Mapping[str, str],
    stored: Stored,
) -> Iterator[Verdict]:
    for a, b in pairs:
        tasks = [task for task in splits if (a, task) in sides and (b, task) in sides]
        seeds = _common([sides[head, task].seeds for head in (a, b) for task in tasks])
        if not seeds:
            continue
        first, second = ({task: sides[head, task].of(seeds) for task in tasks} for head in (a, b))
        for task, difference in differences(first, second).items():
            check = None
            if task != MEAN and stored.tasks[task].classes:
                left, right = sides[a, task], sides[b, task]
                rows = ([side.seeds.index(seed) for seed in seeds] for side in (left, right))
                check = mcnemar(left.labels, *(s.predictions[r] for s, r in zip((left, right), rows, strict=True)))
            if task != MEAN or len(splits) == len(tasks) > 1:
                split = splits[task] if task != MEAN else next(iter(splits.values()))
                yield Verdict(phase, task, split, a, b, difference, math.nan, check)


def _order(stored: Stored, verdict: Verdict) -> float:
    first, second = (
        np.array(list(stored.results.seeds(head, verdict.phase, verdict.task, verdict.split).values()))
        for head in (verdict.a, verdict.b)
    )
    return min_epsilon(second, first) if second.mean() >= first.mean() else min_epsilon(first, second)


def _common(seeds: Sequence[tuple[int, ...]]) -> list[int]:
    return [seed for seed in seeds[0] if all(seed in each for each in seeds)] if seeds else []


def _corrected(verdicts: Sequence[Verdict], tasks: Sequence[str]) -> list[Verdict]:
    """Task by task, corrected for the number of comparisons on each."""
    found = []
    for task in tasks:
        here = [each for each in verdicts if each.task == task]
        corrected = holm([each.difference.p for each in here])
        found += [replace(each, p_holm=p) for each, p in zip(here, corrected, strict=True)]
    return found
