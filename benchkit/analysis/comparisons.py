"""Comparisons of heads on the same examples: differences pair by pair, what they predicted, where they disagree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from string import ascii_letters
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchkit.analysis import statistics
from benchkit.analysis.tables import COUNTED, MEAN, NOTHING, Block, Row, Section, duration, group, interval, number
from benchkit.core.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.analysis.results import Stored
    from benchkit.analysis.statistics import Array, Difference, Evidence, Need
    from benchkit.analysis.tables import Results
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
    """A head's predictions (seed, n) on one task."""

    seeds: tuple[int, ...]
    labels: Array
    predictions: Array
    evidence: Evidence

    def of(self, seeds: Sequence[int]) -> _Side:
        rows = [self.seeds.index(seed) for seed in seeds]
        part = statistics.Evidence(self.evidence.scores[rows], self.evidence.parts[rows])
        return _Side(tuple(seeds), self.labels, self.predictions[rows], part)


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
    splits = {task: split if split in stored.results.splits(phase, task) else "dev" for task in stored.tasks}
    found = list(_compare(stored, phase, splits, against))
    if len(set(splits.values())) > 1:  # a mean of some tasks' test and others' dev means nothing
        on_dev = _compare(stored, phase, dict.fromkeys(splits, "dev"), against)
        found = [each for each in found if each.task != MEAN] + [each for each in on_dev if each.task == MEAN]
    verdicts = []
    for task in (*stored.tasks, MEAN):
        here = [each for each in found if each.task == task]
        corrected = statistics.holm([each.difference.p for each in here])
        verdicts += [replace(each, p_holm=p) for each, p in zip(here, corrected, strict=True)]
    return [replace(each, aso=_stochastic_order(stored, each)) for each in verdicts] if aso else verdicts


def compare_all(stored: Stored, split: str = "test", against: str | None = None, *, aso: bool = False) -> list[Verdict]:
    """`compare` for every phase whose predictions are kept."""
    phases = stored.results.phases
    return [each for phase in phases for each in compare(stored, phase, split, against, aso=aso)]


def _compare(stored: Stored, phase: str, splits: Mapping[str, str], against: str | None) -> Iterator[Verdict]:
    """Each pair, not yet corrected for their number."""
    sides = _sides(stored, phase, splits)
    heads = list(dict.fromkeys(head for head, _ in sides))
    for a, b in [(against, head) for head in heads if head != against] if against else combinations(heads, 2):
        tasks = [task for task in splits if (a, task) in sides and (b, task) in sides]
        known = [sides[head, task].seeds for head in (a, b) for task in tasks]
        seeds = [seed for seed in known[0] if all(seed in each for each in known)] if known else []
        if not seeds:
            continue
        first, second = ({task: sides[head, task].of(seeds) for task in tasks} for head in (a, b))
        evidences = ({task: side.evidence for task, side in each.items()} for each in (first, second))
        for task, difference in statistics.differences(*evidences).items():
            if task != MEAN:
                left, right = first[task], second[task]
                classes = stored.tasks[task].classes
                check = statistics.mcnemar(left.labels, left.predictions, right.predictions) if classes else None
                yield Verdict(phase, task, splits[task], a, b, difference, math.nan, check)
            elif len(splits) == len(tasks) > 1:
                yield Verdict(phase, task, next(iter(splits.values())), a, b, difference, math.nan, None)


def _sides(stored: Stored, phase: str, splits: Mapping[str, str]) -> dict[tuple[str, str], _Side]:
    """By head and task; a head that was not trained on a task has none."""
    rows = group(
        ((record.head, task), (record.seed, frame["label"].to_numpy(float), frame["prediction"].to_numpy(float)))
        for record, task, frame in _labelled_predictions(stored, phase, splits)
    )
    sides = {}
    for (head, task), found in rows.items():
        seeds, labels, columns = zip(*found, strict=True)
        predictions = np.stack(columns)
        known = statistics.evidence(labels[0], predictions, stored.tasks[task].metric.score)
        sides[head, task] = _Side(seeds, labels[0], predictions, known)
    return sides


def _labelled_predictions(
    stored: Stored, phase: str, splits: Mapping[str, str]
) -> Iterator[tuple[Record, str, pd.DataFrame]]:
    """What the cells that count predicted in their last phase, if it is this one, cell by cell and task by task."""
    for record in stored.records:
        if record.status in COUNTED and stored.phase_of_predictions(record) == phase:
            for task, split in splits.items():
                frame = stored.predictions(record, phase, task, split)
                if len(frame) and not frame["label"].isna().any():
                    yield record, task, frame


def _stochastic_order(stored: Stored, verdict: Verdict) -> float:
    first, second = (
        np.array(list(stored.results.seeds(head, verdict.phase, verdict.task, verdict.split).values()))
        for head in (verdict.a, verdict.b)
    )
    better, worse = (second, first) if second.mean() >= first.mean() else (first, second)
    return statistics.min_epsilon(better, worse)


Groups = tuple[tuple[str, ...], ...]


def groups(verdicts: Iterable[Verdict], heads: Sequence[str]) -> Groups:
    """Largest groups of heads without a significant difference; a head may be in several, as in a compact letter
    display (Piepho 2004). Heads that were not compared count as not different.

    Args:
        verdicts: all pairs on one task.
        heads: in the order wanted, such as best first.
    """
    found = {frozenset(heads)}
    for pair in (frozenset((each.a, each.b)) for each in verdicts if each.differ):
        parts = {part for each in found for part in ([each - {head} for head in pair] if pair <= each else [each])}
        found = {each for each in parts if not any(each < other for other in parts)}
    ordered = [[head for head in heads if head in each] for each in found if each]
    return tuple(map(tuple, sorted(ordered, key=lambda each: [heads.index(head) for head in each])))


def all_groups(results: Results, verdicts: Iterable[Verdict]) -> dict[tuple[str, str, str], Groups]:
    """`groups` by phase, task and split, best head first."""
    found = {}
    for key, here in group(((each.phase, each.task, each.split), each) for each in verdicts).items():
        named = {head for each in here for head in (each.a, each.b)}
        means = {head: results.over(head, *key).mean for head in results.heads if head in named}
        found[key] = groups(here, sorted(means, key=lambda head: -means[head]))
    return found


def compact_letters(results: Results, verdicts: Sequence[Verdict]) -> Letters:
    """Letters of the heads that were compared pair by pair, best first."""
    found: dict[tuple[str, str, str, str], str] = {}
    for key, together in all_groups(results, verdicts).items():
        for place, heads in enumerate(together):
            for head in heads:
                found[*key, head] = found.get((*key, head), "") + ascii_letters[place % len(ascii_letters)]
    return found


def difference_sections(verdicts: Sequence[Verdict], results: Results) -> list[Section]:
    """A row a pair, a block a task; the last phase first; then notes."""
    aso = any(each.aso is not None for each in verdicts)
    header = ("difference", "95 % interval", "p (Holm)", "McNemar", *["ASO ε"] * aso, "seeds", "verdict")
    align = ("left", *["right"] * (5 + aso), "left")
    sections = []
    for phase, here in reversed(group((each.phase, each) for each in verdicts).items()):
        rows = group((f"{results.title(each.task)} · {each.split}", Row(_cells(each, aso))) for each in here)
        blocks = [Block((title, *header), each, align) for title, each in rows.items()]
        sections.append(Section(f"{phase}: differences", blocks))
    return [*sections, Section("", (), _notes(verdicts))] if sections else []


def _cells(verdict: Verdict, aso: bool) -> tuple[str, ...]:
    difference = verdict.difference
    between = NOTHING if math.isnan(difference.p) else interval(difference.low, difference.high)
    return (
        f"{verdict.b} − {verdict.a}", number(difference.value, signed=True), between, _p_value(verdict.p_holm),
        _p_value(verdict.mcnemar), *[number(verdict.aso, digits=2)] * aso, str(difference.seeds), conclusion(verdict),
    )  # fmt: skip


def _p_value(p: float | None) -> str:
    """`0.032`, `<0.001`."""
    if p is None or math.isnan(p):
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


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


def verdicts_frame(verdicts: Sequence[Verdict], results: Results) -> pd.DataFrame:
    """A row a verdict, for CSV and JSON."""
    import pandas as pd

    columns = (
        "phase", "task", "split", "metric", "a", "b", "mean_a", "mean_b", "difference", "ci_low", "ci_high", "p",
        "p_holm", "mcnemar", "aso_epsilon", "n_seeds", "verdict",
    )  # fmt: skip
    rows = [
        (
            each.phase, each.task, each.split, results.metrics.get(each.task, MEAN), each.a, each.b, d.a, d.b, d.value,
            d.low, d.high, d.p, each.p_holm, each.mcnemar, each.aso, d.seeds, conclusion(each),
        )
        for each in verdicts
        for d in [each.difference]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def needs(
    stored: Stored, value: float, wanted: float, split: str = "test", against: str | None = None
) -> list[tuple[Verdict, Need]]:
    """Power analysis of each pair of heads and task, of every phase whose predictions are kept.

    Args:
        value: the difference to find, in the tasks' metrics.
        wanted: with which probability.

    Raises:
        UserError: no two heads have two seeds in common.
    """
    verdicts = compare_all(stored, split, against)
    found = [(each, statistics.need(each.difference, value, wanted)) for each in verdicts if each.difference.seeds > 1]
    if not found:
        raise UserError("a plan takes two heads with two seeds in common, finished: run these first, then plan")
    return found


def plan_sections(stored: Stored, found: Sequence[tuple[Verdict, Need]], value: float, wanted: float) -> list[Section]:
    """A block a task of each phase, and what it comes to."""
    seconds = group(
        (record.head, sum(each.train_seconds + each.eval_seconds for each in record.phases))
        for record in stored.records
        if record.status in COUNTED
    )
    costs = {head: sum(each) / len(each) for head, each in seconds.items()}  # of a seed
    header = ("seeds now", "they find", "seeds needed", "cautiously", "limit", "time")
    sections = []
    for phase, here in group((verdict.phase, (verdict, each)) for verdict, each in found).items():
        rows = group(
            (f"{stored.results.title(verdict.task)} · {verdict.split}",
             _plan_row(verdict, each, costs[verdict.a] + costs[verdict.b]))
            for verdict, each in here
        )  # fmt: skip
        blocks = [Block((title, *header), each, ("left", *["right"] * 6)) for title, each in rows.items()]
        title = f"{phase}: seeds to find a difference of {value:g} with a power of {wanted:.0%}"
        sections.append(Section(title, blocks))
    notes = [
        "They find: the smallest true difference that the seeds so far would find. Limit: what unlimited seeds would; "
        "the rest is the chance of which test examples there are. Cautiously: if seeds vary by as much as these few "
        "allow at 80 % confidence. Time: of the missing seeds of both heads, one cell after another."
    ]
    if short := dict.fromkeys(verdict.task for verdict, each in found if each.seeds is None):
        notes.append(
            f"No number of seeds finds {value:g} between every pair on {', '.join(short)}: the limit is above it. Only "
            "more test examples lower the limit: four times as many halve it."
        )
    if most := max((each.seeds or 0 for _, each in found), default=0):
        heads = {head for verdict, _ in found for head in (verdict.a, verdict.b)}
        missing = {head: max(0, most - len(seconds[head])) for head in heads}
        spent = duration(sum(count * costs[head] for head, count in missing.items() if count))
        rest = f"{sum(missing.values())} more cells, about {spent}" if any(missing.values()) else "they are there"
        notes.append(f"For all that seeds can do: {most} seeds of each head ({rest}).")
    return [*sections, Section("", (), [*notes, "One comparison at p < 0.05; correcting for several takes more."])]


def _plan_row(verdict: Verdict, found: Need, cost: float) -> Row:
    have, time = verdict.difference.seeds, NOTHING
    if found.seeds is not None:
        time = duration((found.seeds - have) * cost) if found.seeds > have else "none"
    counts = ("no number" if seeds is None else str(seeds) for seeds in (found.seeds, found.cautious))
    pair = f"{verdict.b} − {verdict.a}"
    return Row((pair, str(have), f"{found.detects:.3f}", *counts, f"{found.limit:.3f}", time))


BINS = 10


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
    confusion: NDArray[np.int64]
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


def summarise(task: TaskSpec, labels: Array, predictions: Array, scores: Array) -> HeadPredictions:
    """Labels (n,) against predictions (seed, n), class indices or scores, and probabilities of classes (seed, n)."""
    count, classes = len(predictions), np.arange(len(task.classes))
    if not task.classes:
        off = predictions - labels
        bins = [_bins(each, labels, task.low, task.high) for each in predictions]
        miss, said = np.abs(off) / (task.high - task.low), predictions.sum(axis=0) / count
        return HeadPredictions(
            count, np.zeros((0, 0), np.int64), np.sum(bins, axis=0), np.sqrt(np.mean(off**2, axis=1)),
            miss.sum(axis=0) / count, said,
        )  # fmt: skip
    right = (predictions == labels).astype(np.float64)
    bins = [_bins(each, y, 0.0, 1.0) for each, y in zip(scores, right, strict=True)]
    errors = np.array([np.abs(each[:, 1] - each[:, 2]).sum() / len(labels) for each in bins])
    pairs = (labels * len(classes) + predictions).astype(np.int64).ravel()
    confusion = np.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), -1)
    votes = (predictions == classes[:, None, None]).sum(axis=1)
    return HeadPredictions(
        count, confusion, np.sum(bins, axis=0), errors, (1 - right).sum(axis=0) / count,
        votes.argmax(axis=0).astype(np.float64),
    )  # fmt: skip


def _bins(x: Array, y: Array, low: float, high: float) -> Array:
    """(bin, 3): count, sum of x, sum of y, in bins of equal width over x; what is outside is in the last ones."""
    place = np.clip((x - low) / (high - low) * BINS, 0, BINS - 1).astype(np.int64)
    return np.stack([np.bincount(place, each, minlength=BINS) for each in (np.ones_like(x), x, y)], axis=1)


def disagreements(observed: TaskPredictions, count: int) -> list[int]:
    """Rows of the examples that divide heads most: some get them right, others do not; of equals, the hardest first."""
    if len(observed.heads) < 2:
        return []
    miss = np.stack([each.miss for each in observed.heads.values()])
    spread, mean = np.ptp(miss, axis=0), miss.mean(axis=0)
    order = np.lexsort((np.arange(len(mean)), -mean.round(9), -spread.round(9)))
    return [int(row) for row in order[:count] if spread[row] > 0]


def read_predictions(stored: Stored) -> dict[str, TaskPredictions]:
    """What heads predicted in the last phase, by task. A task of which nobody has labelled predictions is left out.

    Raises:
        UserError: predictions cannot be read.
    """
    phase = stored.results.phases[-1]
    splits = {task: stored.results.judged(phase, task) for task in stored.tasks}
    examples: dict[str, tuple[tuple[str, ...], Array]] = {}
    values: dict[str, list[tuple[str, Array]]] = {}
    for record, name, frame in _labelled_predictions(stored, phase, splits):
        if name not in examples:
            examples[name] = tuple(map(str, frame.index)), frame["label"].to_numpy(float)
        values.setdefault(name, []).append((record.head, frame[["prediction", "score"]].to_numpy(float).T))
    found = {}
    for name, (ids, labels) in examples.items():
        task = stored.tasks[name]
        heads = {head: summarise(task, labels, *np.stack(each, axis=1)) for head, each in group(values[name]).items()}
        found[name] = TaskPredictions(task, phase, splits[name], ids, labels, heads)
    return found
