"""Compares two runs in pairs of cells, and decides whether the second is a regression."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from benchkit.analysis.results import Stored, paired_predictions
from benchkit.analysis.statistics import paired_differences, spread
from benchkit.analysis.tables import COUNTED, MEAN, Block, Row, Section, group, interval, name_seeds, number
from benchkit.core.errors import UserError, unknown
from benchkit.core.record import Change, changes, describe, parts_of

if TYPE_CHECKING:
    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec

_CONDITION = re.compile(
    r"^\s*(?:(?P<head>[^:<>]+?)\s*:)?\s*(?P<name>[\w-]+\.[\w-]+)\s*(?P<sign><=|>=|<|>)\s*"
    r"(?P<limit>[+-]?(?:\d+\.?\d*|\.\d+))\s*(?P<percent>%?)\s*$"
)
_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """A condition on B minus A.

    Attributes:
        head: "" means every head.
        name: `TASK.METRIC`, `mean.score` for the mean over tasks, or one of `RATIOS`.
        sign: `<`, `<=`, `>` or `>=`.
        limit: in points (hundredths of a metric), or in per cent of A if `percent`.
    """

    text: str
    head: str
    name: str
    sign: str
    limit: float
    percent: bool

    def holds(self, value: float) -> bool:
        return bool(_SIGNS[self.sign](value, self.limit))


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        UserError: the text is not a condition.
    """
    found = _CONDITION.match(text)
    if found is None:
        raise UserError(
            "--fail-if takes [HEAD:]TASK.METRIC<POINTS or [HEAD:]speed.train<PERCENT%, such as sst.accuracy<-1.0 or "
            f"speed.train<-5%, not {text!r}"
        )
    head, name, sign, limit, percent = found.groups()
    return Condition(text.strip(), head or "", name, sign, float(limit), bool(percent))


ACROSS = ("data", "protocol", "machine", "encoder")
"""Differences that must be meant; those of the head and of the code are what a comparison is for."""
POINTS = 100.0
"""Points of accuracy, or of Pearson's r, in one."""
MEAN_NAME = f"{MEAN}.score"
RATIOS = {"speed.train": "steps a second", "speed.eval": "examples a second", "memory.peak": "MB"}
"""Quantities that are compared in per cent of the first run, and their units."""

Pair: TypeAlias = "tuple[Record, Record]"


@dataclass(frozen=True)
class Measure:
    """One quantity of one head.

    Attributes:
        name: `TASK.METRIC`, `mean.score`, or one of `RATIOS`.
        a, b: means over seeds: the metric itself, steps a second, examples a second, or bytes.
        change: B minus A in points, or B / A - 1 in per cent. `low` and `high` are its 95 % interval, NaN if a single
            seed leaves it unknown.
    """

    head: str
    name: str
    a: float
    b: float
    change: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Run B compared with run A.

    Attributes:
        split: the split that the metrics are computed on.
        pairs: by head, the pairs of cells with the same seed that have a number in both runs.
        lost: by head, the cells of B that have no number although the matching cell of A has one.
        differences: how the runs differ, by kind; see `identity_differences`.
        notes: what was left out, one line each.
    """

    split: str
    pairs: Mapping[str, Sequence[Pair]]
    lost: Mapping[str, Sequence[Record]]
    measures: Sequence[Measure]
    differences: Mapping[str, Sequence[str]]
    notes: Sequence[str]

    def of(self, head: str, name: str) -> Measure | None:
        return next((each for each in self.measures if (each.head, each.name) == (head, name)), None)


def compare(
    a: Stored, b: Stored, conditions: Sequence[Condition] = (), *, across: Collection[str] = (), split: str = ""
) -> Comparison:
    """Match cells by head and seed, and measure the changes.

    Args:
        conditions: the conditions that `judge` will check.
        across: differences that are intended; see `ACROSS`.
        split: `test` or `dev`; by default test, or dev where a task's test is unlabelled.

    Raises:
        UserError: no cell matches, the runs differ in a way that was not intended, a condition names something that
            they do not have, or the split has no labels.
    """
    others = {(record.head, record.seed): record for record in b.records}
    pairs = group(
        (record.head, (record, other)) for record in a.records if (other := others.get((record.head, record.seed)))
    )
    if not pairs:
        cells = "; against ".join(", ".join(_with_seeds(each.records)) for each in (a, b))
        raise UserError(f"no cell of the one run has its like in the other: {cells}")
    names = _names([task for name, task in a.tasks.items() if name in b.tasks])
    _check_conditions(conditions, pairs, names.values())
    found = identity_differences([pair for each in pairs.values() for pair in each])
    for kind in ACROSS:
        if kind in found and kind not in across:
            first, *more = found[kind]
            raise UserError(
                f"the two runs differ in {kind} ({first}{f' and {len(more)} more' if more else ''}): say --across "
                f"{kind} if that is the difference meant"
            )
    usable = {head: [pair for pair in each if _counts(pair[0]) and _counts(pair[1])] for head, each in pairs.items()}
    lost = {head: [other for own, other in each if _counts(own) and not _counts(other)] for head, each in pairs.items()}
    split = split or _labelled_split([record for each in usable.values() for pair in each for record in pair])
    measures = [
        each
        for head, cells in usable.items()
        if cells
        for each in (*_scores(head, cells, a, b, names, split), *_costs(head, cells))
    ]
    return Comparison(split, usable, lost, measures, found, [*_only_in_one(a, b), *_unusable(pairs)])


def _check_conditions(conditions: Iterable[Condition], heads: Collection[str], points: Collection[str]) -> None:
    """Reject conditions on heads or quantities that the runs do not have.

    Raises:
        UserError: a condition names a head or a quantity that is not there, or has the wrong unit.
    """
    for each in conditions:
        where = f"--fail-if {each.text!r}"
        if each.head and each.head not in heads:
            raise UserError(f"{where}: {unknown('head', each.head, heads)}")
        if each.name not in (*points, *RATIOS):
            raise UserError(f"{where}: {unknown('quantity', each.name, [*points, *RATIOS])}")
        if each.percent and each.name not in RATIOS:
            raise UserError(f"{where}: {each.name} is compared in points, hundredths of the metric: leave out the %")
        if each.name in RATIOS and not each.percent:
            raise UserError(f"{where}: {each.name} is compared in per cent of the first run: write {each.limit:g}%")


def identity_differences(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Differences between the cells of A and of B, one line each, by kind: one of `ACROSS`, `head` or `code`."""
    found = []
    for a, b in pairs:
        found += [(_kind(each), describe(each, parts_of(a), parts_of(b))) for each in changes(a.identity, b.identity)]
        for name in ("processor", "device"):
            was, now = (str(each.environment.get(name, "unknown")) for each in (a, b))
            found += [("machine", f"{name}: {was} → {now}")] * (was != now)
    return group(dict.fromkeys(found))


def _kind(change: Change) -> str:
    part, last = change.path[0], change.path[-1]
    if last == "source" or part == "engine":
        return "code"
    if part == "tasks":
        return "protocol" if last in ("loss", "order") else "data"
    return "machine" if part == "execution" else part if part in ACROSS else "head"


def _scores(
    head: str, pairs: Sequence[Pair], a: Stored, b: Stored, names: Mapping[str, str], split: str
) -> list[Measure]:
    """Each task's metric and their mean on one split, after each cell's last phase.

    If both cells were scored on the same examples, the interval covers the variance of training and of the examples.
    Otherwise only the seeds can be paired, and it is the t-interval of their differences.

    Raises:
        UserError: a task has no labels on the split.
    """
    scores = [{(s.task, s.split): s.value for s in r.phases[-1].scores} for pair in pairs for r in pair]
    unlabelled = {task for each in scores for task, _ in each if (task, split) not in each}
    if unlabelled:
        raise UserError(f"{split} of {', '.join(sorted(unlabelled))} has no labels: compare another split with --split")
    tasks = [name for name in names if name != MEAN]
    digests = [[each.identity["data"].get(task, {}).get(split) for each in pair] for pair in pairs for task in tasks]
    if all(one is not None and one == other for one, other in digests):
        first, second = zip(*pairs, strict=True)
        sides = (first, a.folders), (second, b.folders)
        paired = paired_differences({name: paired_predictions(a.tasks[name], split, *sides) for name in tasks})
        found = {key: (each.a, each.b, each.value, each.low, each.high) for key, each in paired.items()}
    else:
        columns = {task: np.array([each[task, split] for each in scores]).reshape(-1, 2) for task in tasks}
        columns[MEAN] = np.mean(list(columns.values()), axis=0)
        found = {}
        for key, values in columns.items():
            over = spread(values[:, 1] - values[:, 0])
            found[key] = (*values.mean(axis=0).tolist(), over.mean, over.low, over.high)
    changes_in_points = {key: (a, b, *(POINTS * value for value in change)) for key, (a, b, *change) in found.items()}
    return [Measure(head, name, *changes_in_points[key]) for key, name in names.items()]


def _names(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    """What can be compared in points, by task; the mean over tasks where there are several."""
    names = {task.name: f"{task.name}.{task.metric.name}" for task in tasks}
    return {**names, MEAN: MEAN_NAME} if len(names) > 1 else names


def _costs(head: str, pairs: Sequence[Pair]) -> list[Measure]:
    """Speed and memory for each seed. A quantity that a record does not have is left out."""
    found = []
    for name in RATIOS:
        values = np.array([[_cost(name, record) for record in pair] for pair in pairs])
        if (values > 0).all():
            logs = spread(np.log(values[:, 1] / values[:, 0]))
            change = (100 * math.expm1(value) for value in (logs.mean, logs.low, logs.high))
            found.append(Measure(head, name, *values.mean(axis=0).tolist(), *change))
    return found


def _cost(name: str, record: Record) -> float:
    """Bytes, or an amount per second over all phases; 0 if no time was measured."""
    if name == "memory.peak":
        return record.peak_memory_bytes
    if name == "speed.train":
        done, seconds = sum(each.steps for each in record.phases), sum(each.train_seconds for each in record.phases)
    else:  # examples scored: dev after each epoch, every split at the end
        done = sum(s.n * (1 + each.epochs * (s.split == "dev")) for each in record.phases for s in each.scores)
        seconds = sum(each.eval_seconds for each in record.phases)
    return done / seconds if seconds > 0 else 0.0


class Verdict(NamedTuple):
    """Whether a condition holds for a head, and the condition, the head and the numbers in words."""

    holds: bool
    text: str


def judge(comparison: Comparison, conditions: Sequence[Condition], *, sure: bool = False) -> list[Verdict]:
    """Check each condition on each head that it applies to. A head that lost cells fulfils every condition on it.

    Args:
        sure: a condition holds only if the whole interval fulfils it; without an interval it does not hold.
    """
    verdicts = []
    for condition in conditions:
        for head in [condition.head] if condition.head else comparison.pairs:
            measure, holds, reason = comparison.of(head, condition.name), False, "has no number in either run"
            if lost := group((record.status, record.seed) for record in comparison.lost[head]):
                fates = ", ".join(f"{status} with {name_seeds(seeds)}" for status, seeds in lost.items())
                holds, reason = True, f"{fates}, no number to compare"
            elif measure:
                values = (measure.low, measure.high) if sure else (measure.change,)
                found, unit = _interval(measure), "%" if measure.name in RATIOS else "points"
                holds = all(map(condition.holds, values))
                reason = f"{_change(measure)} {unit}{f' ({found})' if found else ''}"
            verdicts.append(Verdict(holds, f"{condition.text}: {head} {reason}"))
    return verdicts


def _counts(record: Record) -> bool:
    return record.status in COUNTED


def _with_seeds(records: Iterable[Record]) -> list[str]:
    seeds = group((record.head, record.seed) for record in records)
    return [f"{head} with {name_seeds(each)}" for head, each in seeds.items()]


def _labelled_split(records: Sequence[Record]) -> str:
    """Test, or dev where the test of a task has no labels."""
    labelled = [{(s.task, s.split) for s in record.phases[-1].scores} for record in records]
    tasks = {task for each in labelled for task, _ in each}
    return "test" if all((task, "test") in each for each in labelled for task in tasks) else "dev"


def _only_in_one(a: Stored, b: Stored) -> Iterator[str]:
    for name, one, other in (("first", a, b), ("second", b, a)):
        there = {(record.head, record.seed) for record in other.records}
        seeds = group((r.head, r.seed) for r in one.records if (r.head, r.seed) not in there)
        yield from (f"Only in the {name} run: {head}, {name_seeds(each)}." for head, each in seeds.items())


def _unusable(matched: Mapping[str, Sequence[Pair]]) -> Iterator[str]:
    for head, pairs in matched.items():
        for pair in pairs:
            for record, name in zip(pair, ("first", "second"), strict=True):
                if not _counts(record):
                    yield f"No number in the {name} run: {head} seed {record.seed}, {record.status}: {record.error}"


_SHOWN = 8


def section(comparison: Comparison) -> Section:
    """One block per quantity, then the differences between the two runs."""
    blocks = []
    for name in dict.fromkeys(each.name for each in comparison.measures):
        title = f"{'mean of tasks' if name == MEAN_NAME else name} · {RATIOS.get(name, comparison.split)}"
        header = (title, "A", "B", "B / A − 1, %" if name in RATIOS else "B − A, points", "95 % interval", "")
        rows = [_row(each) for each in comparison.measures if each.name == name]
        blocks.append(Block(header, rows, ("left", "right", "right", "right", "left", "left")))
    return Section("", blocks, list(_remarks(comparison)))


def _row(measure: Measure) -> Row:
    digits, scale = (",.0f", 1e6 if measure.name == "memory.peak" else 1.0) if measure.name in RATIOS else (".4f", 1.0)
    values = (f"{value / scale:{digits}}" for value in (measure.a, measure.b))
    return Row((measure.head, *values, _change(measure), _interval(measure) or "one seed: unknown", _word(measure)))


def _change(measure: Measure) -> str:
    return number(measure.change, signed=True, digits=2)


def _interval(measure: Measure) -> str:
    return "" if math.isnan(measure.low) else interval(measure.low, measure.high, digits=2)


def _word(measure: Measure) -> str:
    if math.isnan(measure.low):
        return ""
    if measure.low == measure.high == 0:
        return "the same"
    return "higher" if measure.low > 0 else "lower" if measure.high < 0 else "cannot tell"


def _remarks(comparison: Comparison) -> Iterator[str]:
    common = ((head, [a.seed for a, _ in pairs]) for head, pairs in comparison.pairs.items())
    heads = group((name_seeds(seeds) if seeds else "no seed with a number", head) for head, seeds in common)
    yield from (f"{', '.join(each)}: {seeds} in both." for seeds, each in heads.items())
    for kind, lines in comparison.differences.items():
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        yield f"Not the same ({kind}): {'; '.join(lines[:_SHOWN])}{more}."
    yield from comparison.notes
