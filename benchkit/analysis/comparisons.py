"""Comparisons of heads on the same examples: differences pair by pair, what they predicted, where they disagree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchkit.analysis.results import COUNTED, MEAN
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
)
from benchkit.analysis.tables import NOTHING, Block, Row, Section, interval, number, p_value
from benchkit.core.errors import unknown

if TYPE_CHECKING:
    from benchkit.analysis.results import Results, Stored
    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec


LEVEL = 0.05
Letters = Mapping[tuple[str, str, str, str], str]
"""A compact letter display, such as `ab`, by phase, task, split and head."""


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
        """Whether the difference is significant."""
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
    records = [each for each in stored.records if each.status in COUNTED and stored.phase_of_predictions(each) == phase]
    heads = list(dict.fromkeys(record.head for record in records))
    pairs = [(against, head) for head in heads if head != against] if against else list(combinations(heads, 2))
    splits = {task: split if _labelled(stored, records, phase, task, split) else "dev" for task in stored.tasks}
    same = set(splits.values()) == {split}
    sides = _sides(stored, records, phase, splits)
    found = list(_compare_pairs(pairs, sides, phase, splits, stored))
    if not same and len(stored.tasks) > 1:  # a mean of some tasks' test and others' dev means nothing
        splits = dict.fromkeys(stored.tasks, "dev")
        found = [each for each in found if each.task != MEAN]
        again = _compare_pairs(pairs, _sides(stored, records, phase, splits), phase, splits, stored)
        found += [each for each in again if each.task == MEAN]
    found = _corrected(found, [*stored.tasks, MEAN])
    return [replace(each, aso=_stochastic_order(stored, each)) for each in found] if aso else found


def groups(verdicts: Sequence[Verdict], heads: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Largest groups of heads without a significant difference; a head may be in several, as in a compact letter
    display (Piepho 2004). Heads that were not compared count as not different.

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


def _compare_pairs(
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


def _stochastic_order(stored: Stored, verdict: Verdict) -> float:
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
"""Up to so many pairs a report shows all of them; beyond, the letters say enough."""


def compact_letters(results: Results, verdicts: Sequence[Verdict]) -> Letters:
    """Letters of the heads that were compared pair by pair, best first."""
    found: dict[tuple[str, str, str, str], str] = {}
    for phase, task, split in dict.fromkeys((each.phase, each.task, each.split) for each in verdicts):
        here = [each for each in verdicts if (each.phase, each.task, each.split) == (phase, task, split)]
        named = {head for each in here for head in (each.a, each.b)}
        means = {head: results.over(head, phase, task, split).mean for head in named}
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


def groups_by_task(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """`groups` of each phase, task and split, best head first, for JSON."""
    found = []
    for phase, task, split in dict.fromkeys((each.phase, each.task, each.split) for each in verdicts):
        here = [each for each in verdicts if (each.phase, each.task, each.split) == (phase, task, split)]
        means = {
            head: mean for each in here for head, mean in ((each.a, each.difference.a), (each.b, each.difference.b))
        }
        together = groups(here, sorted(means, key=lambda head: -means[head]))
        found.append({"phase": phase, "task": task or MEAN, "split": split, "groups": together})
    return found


def difference_sections(verdicts: Sequence[Verdict], results: Results) -> list[Section]:
    """A row a pair, a block a task; the last phase first; then notes."""
    sections = []
    for phase in reversed(results.phases):
        here = [each for each in verdicts if each.phase == phase]
        if here:
            tasks = dict.fromkeys(each.task for each in here)
            blocks = [_block([each for each in here if each.task == task], results) for task in tasks]
            sections.append(Section(f"{phase}: differences", blocks))
    return [*sections, Section("", (), _notes(verdicts))] if sections else []


def _block(verdicts: Sequence[Verdict], results: Results) -> Block:
    first, aso = verdicts[0], any(each.aso is not None for each in verdicts)
    title = f"{results.title(first.task)} · {first.split}"
    header = (title, "difference", "95 % interval", "p (Holm)", "McNemar", *["ASO ε"] * aso, "seeds", "verdict")
    return Block(header, [Row(_cells(each, aso)) for each in verdicts], ("left", *["right"] * (5 + aso), "left"))


def _cells(verdict: Verdict, aso: bool) -> tuple[str, ...]:
    difference = verdict.difference
    return (
        f"{verdict.b} − {verdict.a}",
        number(difference.value, signed=True),
        interval(difference.low, difference.high) if not math.isnan(difference.p) else NOTHING,
        p_value(verdict.p_holm),
        p_value(verdict.mcnemar),
        *[number(verdict.aso, digits=2)] * aso,
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
    """The values of `COLUMNS` for CSV and JSON; None where there is no number."""
    found = []
    for each in verdicts:
        d = each.difference
        values = (
            each.phase, each.task, each.split, results.metrics.get(each.task, MEAN), each.a, each.b, d.a, d.b, d.value,
            d.low, d.high, d.p, each.p_holm, each.mcnemar, each.aso, d.seeds, conclusion(each),
        )  # fmt: skip
        known = (None if isinstance(value, float) and math.isnan(value) else value for value in values)
        found.append(dict(zip(COLUMNS, known, strict=True)))
    return found


BINS = 10

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class HeadPredictions:
    """One head on one split of a task, over its seeds.

    Attributes:
        confusion: (class, class), label by prediction, counted over all seeds; (0, 0) for a regression.
        bins: (bin, 3): examples, sum of x and sum of y. For classes x is the probability of the predicted class and
            y whether it was right; for a regression x is the prediction and y the label.
        errors: (seed,): expected calibration error of classes (Guo et al. 2017); root mean square error of scores.
        miss: (n,): share of seeds that got an example wrong; of a regression the mean distance from the label, as a
            share of the label range.
        said: (n,): the class that most seeds predicted, the lower one of two; of a regression the mean prediction.
    """

    seeds: int
    confusion: Counts
    bins: Array
    errors: Array
    miss: Array
    said: Array


@dataclass(frozen=True)
class TaskPredictions:
    """All heads on one split of a task, in the phase whose predictions are kept; `labels` (n,), ids in that order."""

    task: TaskSpec
    phase: str
    split: str
    ids: tuple[str, ...]
    labels: Array
    heads: Mapping[str, HeadPredictions]


class Tally:
    """Sums over the seeds of one head."""

    def __init__(self, task: TaskSpec, labels: Array) -> None:
        self._task, self._labels = task, labels
        classes = len(task.classes)
        self._confusion = np.zeros((classes, classes), np.int64)
        self._votes = np.zeros((len(labels), max(classes, 1)))
        self._bins = np.zeros((BINS, 3))
        self._miss = np.zeros(len(labels))
        self._errors: list[float] = []

    def add(self, predictions: Array, scores: Array) -> None:
        """One seed: predictions (n,) as class indices or scores, and of classes their probabilities (n,)."""
        if self._task.classes:
            self._add_classes(predictions.astype(np.int64), scores)
        else:
            self._add_scores(predictions)

    def result(self) -> HeadPredictions:
        seeds = len(self._errors)
        said = self._votes.argmax(axis=1) if self._task.classes else self._votes[:, 0] / seeds
        errors = np.array(self._errors)
        return HeadPredictions(seeds, self._confusion, self._bins, errors, self._miss / seeds, said.astype(np.float64))

    def _add_classes(self, predictions: Counts, scores: Array) -> None:
        classes = len(self._task.classes)
        labels = self._labels.astype(np.int64)
        pairs = np.bincount(labels * classes + predictions, minlength=classes**2)
        self._confusion += pairs.reshape(classes, classes)
        right = (labels == predictions).astype(np.float64)
        self._votes[np.arange(len(labels)), predictions] += 1
        self._miss += 1 - right
        bins = _bins(scores, right, 0.0, 1.0)
        self._bins += bins
        self._errors.append(float(np.abs(bins[:, 1] - bins[:, 2]).sum() / len(labels)))

    def _add_scores(self, predictions: Array) -> None:
        task, off = self._task, predictions - self._labels
        self._votes[:, 0] += predictions
        self._miss += np.abs(off) / (task.high - task.low)
        self._bins += _bins(predictions, self._labels, task.low, task.high)
        self._errors.append(float(np.sqrt(np.mean(off**2))))


def _bins(x: Array, y: Array, low: float, high: float) -> Array:
    """(bin, 3): count, sum of x, sum of y, in bins of equal width over x; what is outside is in the last ones."""
    place = np.clip((x - low) / (high - low) * BINS, 0, BINS - 1).astype(np.int64)
    return np.stack([np.bincount(place, each, minlength=BINS) for each in (np.ones_like(x), x, y)], axis=1)


@dataclass(frozen=True)
class Disagreement:
    """An example on which heads differ; `row` is its place in the split."""

    id: str
    label: float
    row: int


def disagreements(observed: TaskPredictions, count: int) -> list[Disagreement]:
    """The examples that divide heads most: some get them right, others do not; of equals, the hardest first."""
    if len(observed.heads) < 2:
        return []
    miss = np.stack([each.miss for each in observed.heads.values()])
    spread, mean = np.ptp(miss, axis=0), miss.mean(axis=0)
    order = np.lexsort((np.arange(len(mean)), -mean.round(9), -spread.round(9)))
    best = [int(row) for row in order[:count] if spread[row] > 0]
    return [Disagreement(observed.ids[row], float(observed.labels[row]), row) for row in best]


def read_predictions(stored: Stored) -> dict[str, TaskPredictions]:
    """What heads predicted in the last phase, by task, one cell in memory at a time. A task of which nobody has
    labelled predictions is left out.

    Raises:
        UserError: predictions cannot be read.
    """
    results = stored.results
    phase = results.phases[-1]
    splits = {task: results.judged(phase, task) for task in stored.tasks}
    spoilt = {(each.head, each.seed) for each in results.faults if not each.counts and phase in each.phases}
    ids: dict[str, tuple[str, ...]] = {}
    labels: dict[str, Array] = {}
    tallies: dict[str, dict[str, Tally]] = {task: {} for task in stored.tasks}
    for record in stored.records:
        if (record.head, record.seed) in spoilt or stored.phase_of_predictions(record) != phase:
            continue
        for name, task in stored.tasks.items():
            rows = stored.predictions(record, phase, name, splits[name])
            if rows.empty or rows["label"].isna().any():
                continue
            if name not in ids:
                ids[name] = tuple(str(each) for each in rows.index)
                labels[name] = rows["label"].to_numpy(np.float64)
            tally = tallies[name].setdefault(record.head, Tally(task, labels[name]))
            tally.add(rows["prediction"].to_numpy(np.float64), rows["score"].to_numpy(np.float64))
    return {
        name: TaskPredictions(
            stored.tasks[name], phase, splits[name], ids[name], labels[name],
            {head: tally.result() for head, tally in tallies[name].items()},
        )
        for name in ids
    }  # fmt: skip
