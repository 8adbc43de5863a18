"""Verdicts: which heads can be told apart, by task and over all tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np

from benchkit.analysis.results import MEAN
from benchkit.analysis.statistics import (
    Array,
    Difference,
    Evidence,
    Score,
    differences,
    evidence,
    holm,
    mcnemar,
    min_epsilon,
    spread,
)
from benchkit.analysis.tables import Block, Row, Style, heading, notes, table
from benchkit.core.errors import unknown

if TYPE_CHECKING:
    from benchkit.analysis.results import Results, Stored
    from benchkit.analysis.tables import Letters
    from benchkit.core.record import Record


LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """Head `b` minus head `a`, over the seeds that both have, on one task or the mean of all.

    Attributes:
        split: `dev` where test is unlabelled.
        p_holm: corrected for the number of comparisons on this task; NaN below two seeds in common.
        mcnemar: a cross-check for classes, see `mcnemar`; None for scores and the mean.
        aso: of the better over the worse, see `benchkit.analysis.statistics`; None unless asked for.
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


ALL_PAIRS = 10
"""A table of so many pairs is still read; of more the letters tell."""


def letters(results: Results, verdicts: Sequence[Verdict]) -> Letters:
    """Letters of the heads that were compared pair by pair, best first."""
    found: dict[tuple[str, str, str, str], str] = {}
    for phase, task, split in dict.fromkeys((each.phase, each.task, each.split) for each in verdicts):
        here = [each for each in verdicts if (each.phase, each.task, each.split) == (phase, task, split)]
        named = {head for each in here for head in (each.a, each.b)}
        means = {head: spread(results.seeds(head, phase, task, split).values()).mean for head in named}
        ordered = sorted((head for head in results.heads if head in named), key=lambda head: -means[head])
        for place, group in enumerate(groups(here, ordered)):
            for head in group:
                key = (phase, task, split, head)
                found[key] = found.get(key, "") + _letter(place)
    return found


def _letter(place: int) -> str:
    """`a` to `z`, then `A'`, `B'` …, which no table should need."""
    return ascii_lowercase[place] if place < len(ascii_lowercase) else f"{chr(65 + place % 26)}'"


def letters_note(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    return [
        "Heads that share a letter on a task cannot be told apart there: paired over seeds and examples, "
        f"Holm-corrected p at least {LEVEL}."
    ]


def pair_tables(verdicts: Sequence[Verdict], results: Results, style: Style, columns: int = 100) -> str:
    """A row a pair, a block a task; the last phase first."""
    parts = []
    for phase in reversed(results.phases):
        here = [each for each in verdicts if each.phase == phase]
        if here:
            blocks = [_block([each for each in here if each.task == task], results) for task in _tasks(here)]
            parts += [heading(f"{phase}: differences", style), table(blocks, style)]
    return "\n\n".join([*parts, notes(_notes(verdicts), style, columns)]) + "\n" if parts else ""


def _tasks(verdicts: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.task for each in verdicts))


def _block(verdicts: Sequence[Verdict], results: Results) -> Block:
    first = verdicts[0]
    metric = "" if first.task == MEAN else f" · {results.metrics[first.task]}"
    title = f"{'mean of tasks' if first.task == MEAN else first.task}{metric} · {first.split}"
    order = any(each.aso is not None for each in verdicts)
    header = (title, "difference", "95 % interval", "p (Holm)", "McNemar", *["ASO ε"] * order, "seeds", "verdict")
    rows = [Row(_cells(each, order)) for each in verdicts]
    return Block(header, rows, ("left", *["right"] * (5 + order), "left"))


def _cells(verdict: Verdict, order: bool) -> tuple[str, ...]:
    difference = verdict.difference
    known = not math.isnan(difference.p)
    return (
        f"{verdict.b} − {verdict.a}",
        signed(difference.value),
        f"{signed(difference.low)} to {signed(difference.high)}" if known else "–",
        chance(verdict.p_holm),
        chance(verdict.mcnemar),
        *["–" if verdict.aso is None else f"{verdict.aso:.2f}"] * order,
        str(difference.seeds),
        conclusion(verdict),
    )


def conclusion(verdict: Verdict) -> str:
    """`cnn better`, `not told apart`, `one seed`."""
    if math.isnan(verdict.p_holm):
        return "one seed"
    if not verdict.differ:
        return "not told apart"
    return f"{verdict.b if verdict.difference.value > 0 else verdict.a} better"


def _notes(verdicts: Sequence[Verdict]) -> list[str]:
    lines = [
        "Interval and p take seeds and examples both as chance; p is corrected for the comparisons on a task (Holm). "
        "McNemar's p, uncorrected, takes the trained models as they are."
    ]
    if min(each.difference.seeds for each in verdicts) < 5:
        lines.append("With few seeds intervals are wide: benchkit plan says how many a difference takes.")
    if any(each.difference.seeds < 2 for each in verdicts):
        lines.append("One seed in common: how much training varies is unknown, so there is no interval.")
    if any(each.split == "dev" for each in verdicts):
        lines.append("dev chose the epoch, so it flatters; heads are flattered alike if they vary alike.")
    if any(each.aso is not None for each in verdicts):
        lines.append("ASO ε: of the better over the worse; below 0.5 its seeds are better at most quantiles, 0 at all.")
    return lines


COLUMNS = (
    "phase", "task", "split", "metric", "a", "b", "mean_a", "mean_b", "difference", "ci_low", "ci_high", "p", "p_holm",
    "mcnemar", "aso_epsilon", "n_seeds", "verdict",
)  # fmt: skip


def rows(verdicts: Sequence[Verdict], results: Results) -> list[dict[str, Any]]:
    """For CSV and JSON; None where there is no number."""
    return [
        {
            "phase": each.phase, "task": each.task, "split": each.split,
            "metric": results.metrics.get(each.task, MEAN), "a": each.a, "b": each.b,
            **_numbers(each), "n_seeds": each.difference.seeds, "verdict": conclusion(each),
        }
        for each in verdicts
    ]  # fmt: skip


def _numbers(verdict: Verdict) -> Mapping[str, float | None]:
    difference = verdict.difference
    values = {
        "mean_a": difference.a, "mean_b": difference.b, "difference": difference.value, "ci_low": difference.low,
        "ci_high": difference.high, "p": difference.p, "p_holm": verdict.p_holm, "mcnemar": verdict.mcnemar,
        "aso_epsilon": verdict.aso,
    }  # fmt: skip
    return {name: None if value is None or math.isnan(value) else value for name, value in values.items()}


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def chance(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"
