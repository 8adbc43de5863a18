"""Two runs side by side: what differs between them, how much, and whether that is a regression."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from benchkit.analysis.results import COUNTED, MEAN, Stored, stack_predictions
from benchkit.analysis.statistics import Paired, paired_differences, spread
from benchkit.analysis.tables import Block, Row, Section, interval, name_seeds, number
from benchkit.core.errors import UserError, unknown
from benchkit.core.record import Change, changes, describe, parts_of

if TYPE_CHECKING:
    from benchkit.core.record import PhaseResult, Record
    from benchkit.core.task import TaskSpec

GRAMMAR = "[HEAD:]TASK.METRIC<POINTS or [HEAD:]speed.train<PERCENT%"
_PATTERN = re.compile(
    r"^\s*(?:(?P<head>[^:<>]+?)\s*:)?\s*(?P<name>[\w-]+\.[\w-]+)\s*(?P<sign><=|>=|<|>)\s*"
    r"(?P<limit>[+-]?(?:\d+\.?\d*|\.\d+))\s*(?P<percent>%?)\s*$"
)


@dataclass(frozen=True)
class Condition:
    """A condition on B minus A.

    Attributes:
        head: "" means every head.
        name: `TASK.METRIC`, `mean.score` for the mean over tasks, or one of `speed.train`, `speed.eval`, `memory.peak`.
        sign: `<`, `<=`, `>` or `>=`.
        limit: in points, which are hundredths of a metric, or in per cent of A where `percent`.
    """

    text: str
    head: str
    name: str
    sign: str
    limit: float
    percent: bool

    def holds(self, value: float) -> bool:
        below, equal = value < self.limit, value == self.limit
        return (equal and "=" in self.sign) or (below if "<" in self.sign else not below and not equal)


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        UserError: it is none.
    """
    found = _PATTERN.match(text)
    if found is None:
        raise UserError(f"--fail-if takes {GRAMMAR}, such as sst.accuracy<-1.0 or speed.train<-5%, not {text!r}")
    head, name, sign, limit, percent = found.groups()
    return Condition(text.strip(), head or "", name, sign, float(limit), bool(percent))


def check(
    conditions: Iterable[Condition], heads: Collection[str], points: Collection[str], shares: Collection[str]
) -> None:
    """Refuse what the runs do not have.

    Args:
        points: names that are compared in points.
        shares: names that are compared in per cent.

    Raises:
        UserError: a condition names a head or a quantity that is not there, or has the wrong unit.
    """
    for each in conditions:
        where = f"--fail-if {each.text!r}"
        if each.head and each.head not in heads:
            raise UserError(f"{where}: {unknown('head', each.head, heads)}")
        if each.name not in {*points, *shares}:
            raise UserError(f"{where}: {unknown('quantity', each.name, [*points, *shares])}")
        if each.name in points and each.percent:
            raise UserError(f"{where}: {each.name} is compared in points, hundredths of the metric: leave out the %")
        if each.name in shares and not each.percent:
            raise UserError(f"{where}: {each.name} is compared in per cent of the first run: write {each.limit:g}%")


ACROSS = ("data", "protocol", "machine", "encoder")
"""Differences that must be meant; those of the head and of the code are what a comparison is for."""
_HARDWARE = ("processor", "device")

Pair: TypeAlias = "tuple[Record, Record]"


def identity_differences(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """What differs between the cells of A and those of B, a line each, by kind: one of `ACROSS`, `head` or `code`."""
    found: dict[str, list[str]] = {}
    for a, b in pairs:
        old, new = parts_of(a), parts_of(b)
        for change in changes(a.identity, b.identity):
            found.setdefault(_kind(change), []).append(describe(change, old, new))
        for name in _HARDWARE:
            was, now = (str(each.environment.get(name, "unknown")) for each in (a, b))
            if was != now:
                found.setdefault("machine", []).append(f"{name}: {was} → {now}")
    return {kind: list(dict.fromkeys(lines)) for kind, lines in found.items()}


def refuse_unmeant(found: dict[str, list[str]], across: Collection[str]) -> None:
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


def _quality(head: str, pairs: Sequence[Pair], a: Stored, b: Stored, split: str) -> list[Measure]:
    """Each task's metric and their mean on one split, after each cell's last phase.

    Where both were scored on the same examples, the interval holds the chance of training and that of the examples;
    else only the seeds can be paired, and it is the t-interval of their differences.
    """
    tasks = [name for name in a.tasks if name in b.tasks]
    if not all(_same_examples(pair, task, split) for pair in pairs for task in tasks):
        return _by_seed(head, pairs, {name: a.tasks[name] for name in tasks}, split)
    found = paired_differences({name: _paired(a.tasks[name], pairs, a, b, split) for name in tasks})
    names = _points([a.tasks[name] for name in tasks])
    return [
        Measure(head, names[key], each.a, each.b, POINTS * each.value, POINTS * each.low, POINTS * each.high)
        for key, each in found.items()
        if key in names
    ]


def _points(tasks: Sequence[TaskSpec]) -> dict[str, str]:
    """What can be compared in points, by task; the mean over tasks where there are several."""
    names = {task.name: f"{task.name}.{task.metric.name}" for task in tasks}
    return {**names, MEAN: MEAN_NAME} if len(names) > 1 else names


def _costs(head: str, pairs: Sequence[Pair]) -> list[Measure]:
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
        side.predictions(pair[place], pair[place].phases[-1].name, task.name, split)
        for place, side in enumerate((a, b))
        for pair in pairs
    ]
    labels, predictions = stack_predictions(frames, f"{task.name} {split}")
    return Paired(labels, predictions[: len(pairs)], predictions[len(pairs) :], task.metric.score)


def _by_seed(head: str, pairs: Sequence[Pair], tasks: Mapping[str, TaskSpec], split: str) -> list[Measure]:
    columns = {name: [(_score(x, name, split), _score(y, name, split)) for x, y in pairs] for name in tasks}
    columns[MEAN] = [_means(seed) for seed in zip(*columns.values(), strict=True)]
    found = []
    for key, name in _points(list(tasks.values())).items():
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


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes:
        split: that the metrics are of.
        pairs: by head, the cells of the same seed that have a number in both runs.
        lost: by head, the cells of A with a number whose match in B has none, with what became of it.
        differences: what is not the same, by kind; see `identity_differences`.
        notes: what was left out, a line each.
    """

    split: str
    pairs: Mapping[str, Sequence[Pair]]
    lost: Mapping[str, Sequence[Pair]]
    measures: Sequence[Measure]
    differences: Mapping[str, Sequence[str]]
    notes: Sequence[str]

    def of(self, head: str, name: str) -> Measure | None:
        return next((each for each in self.measures if (each.head, each.name) == (head, name)), None)


@dataclass(frozen=True)
class Verdict:
    """Whether one condition holds for one head; `lost` where B has no number for seeds that A has one for."""

    condition: Condition
    head: str
    measure: Measure | None
    holds: bool
    lost: str = ""


def compare(
    a: Stored, b: Stored, conditions: Sequence[Condition] = (), *, across: Collection[str] = (), split: str = ""
) -> Comparison:
    """Match cells by head and seed, and measure.

    Args:
        conditions: what will be asked of the comparison, see `judge`.
        across: differences that are meant; see `ACROSS`.
        split: `test` or `dev`; by default test, or dev where a task's test is unlabelled.

    Raises:
        UserError: no cell matches, the runs differ in what was not meant, a condition names what they do not have, or
            the split has no labels.
    """
    matched = _match(a, b)
    names = _points([task for name, task in a.tasks.items() if name in b.tasks])
    check(conditions, list(matched), list(names.values()), SHARES)
    found = identity_differences([pair for pairs in matched.values() for pair in pairs])
    refuse_unmeant(found, across)
    usable = {head: [(x, y) for x, y in pairs if _counts(x) and _counts(y)] for head, pairs in matched.items()}
    lost = {head: [(x, y) for x, y in pairs if _counts(x) and not _counts(y)] for head, pairs in matched.items()}
    split = split or _split(usable)
    measures = [
        each
        for head, pairs in usable.items()
        if pairs
        for each in (*_quality(head, pairs, a, b, _labelled(pairs, split)), *_costs(head, pairs))
    ]
    return Comparison(split, usable, lost, measures, found, [*_only_in_one(a, b), *_unusable(matched)])


def judge(comparison: Comparison, conditions: Sequence[Condition], *, sure: bool = False) -> list[Verdict]:
    """Each condition on each head that it speaks of. A head that lost cells fulfils every condition on it.

    Args:
        sure: a condition holds only if it does on the whole interval; without an interval it does not.
    """
    verdicts = []
    for condition in conditions:
        for head in [condition.head] if condition.head else comparison.pairs:
            measure, lost = comparison.of(head, condition.name), _fates(comparison.lost[head])
            verdicts.append(Verdict(condition, head, measure, bool(lost) or _holds(condition, measure, sure), lost))
    return verdicts


def _holds(condition: Condition, measure: Measure | None, sure: bool) -> bool:
    if measure is None:
        return False
    values = (measure.low, measure.high) if sure else (measure.change,)
    return all(condition.holds(value) for value in values)


def _match(a: Stored, b: Stored) -> dict[str, list[Pair]]:
    others = {(record.head, record.seed): record for record in b.records}
    pairs: dict[str, list[Pair]] = {}
    for record in a.records:
        if (record.head, record.seed) in others:
            pairs.setdefault(record.head, []).append((record, others[record.head, record.seed]))
    if not pairs:
        raise UserError(f"no cell of the one run has its like in the other: {_cells(a)}; against {_cells(b)}")
    return pairs


def _cells(stored: Stored) -> str:
    seeds: dict[str, list[int]] = {}
    for record in stored.records:
        seeds.setdefault(record.head, []).append(record.seed)
    return ", ".join(f"{head} with {name_seeds(each)}" for head, each in seeds.items())


def _counts(record: Record) -> bool:
    return record.status in COUNTED


def _split(usable: Mapping[str, Sequence[Pair]]) -> str:
    records = [record for pairs in usable.values() for pair in pairs for record in pair]
    labelled = [{(s.task, s.split) for s in record.phases[-1].scores} for record in records]
    tasks = {task for each in labelled for task, _ in each}
    return "test" if all((task, "test") in each for each in labelled for task in tasks) else "dev"


def _labelled(pairs: Sequence[Pair], split: str) -> str:
    """The split, if every task has labels for it."""
    for record in (record for pair in pairs for record in pair):
        missing = {s.task for s in record.phases[-1].scores} - {
            s.task for s in record.phases[-1].scores if s.split == split
        }
        if missing:
            raise UserError(
                f"{split} of {', '.join(sorted(missing))} has no labels: compare another split with --split"
            )
    return split


def _only_in_one(a: Stored, b: Stored) -> list[str]:
    lines = []
    for name, one, other in (("first", a, b), ("second", b, a)):
        there = {(record.head, record.seed) for record in other.records}
        seeds: dict[str, list[int]] = {}
        for record in one.records:
            if (record.head, record.seed) not in there:
                seeds.setdefault(record.head, []).append(record.seed)
        lines += [f"Only in the {name} run: {head}, {name_seeds(each)}." for head, each in seeds.items()]
    return lines


def _unusable(matched: Mapping[str, Sequence[Pair]]) -> list[str]:
    return [
        f"No number in the {name} run: {head} seed {pair[side].seed}, {pair[side].status}: {pair[side].error}"
        for head, pairs in matched.items()
        for pair in pairs
        for side, name in enumerate(("first", "second"))
        if not _counts(pair[side])
    ]


def _fates(lost: Sequence[Pair]) -> str:
    """`failed with seeds 0, 2`."""
    seeds: dict[str, list[int]] = {}
    for _, record in lost:
        seeds.setdefault(record.status, []).append(record.seed)
    return ", ".join(f"{status} with {name_seeds(each)}" for status, each in seeds.items())


_UNITS = {"speed.train": "steps a second", "speed.eval": "examples a second", "memory.peak": "MB"}
_SHOWN = 8


def section(comparison: Comparison) -> Section:
    """A block a quantity, then what is not the same in the two runs."""
    names = dict.fromkeys(each.name for each in comparison.measures)
    blocks = [
        _block(name, [each for each in comparison.measures if each.name == name], comparison.split) for name in names
    ]
    return Section("", blocks, list(_remarks(comparison)))


def verdict_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line a condition and head: `✗` where it holds, which is the regression looked for."""
    for each in verdicts:
        mark = "✗" if each.holds else "✓"
        reason = each.lost and f"{each.lost}, no number to compare"
        if not reason and each.measure:
            found = _interval(each.measure)
            unit = "%" if each.measure.share else "points"
            reason = f"{_change(each.measure)} {unit}{f' ({found})' if found else ''}"
        yield f"{mark} {each.condition.text}: {each.head} {reason or 'has no number in either run'}"


def _block(name: str, measures: Sequence[Measure], split: str) -> Block:
    share = name in SHARES
    title = f"{name} · {_UNITS[name]}" if share else f"{'mean of tasks' if name == MEAN_NAME else name} · {split}"
    header = (title, "A", "B", "B / A − 1, %" if share else "B − A, points", "95 % interval", "")
    rows = [Row((each.head, *_values(each), _change(each), *_interval_and_word(each))) for each in measures]
    return Block(header, rows, ("left", "right", "right", "right", "left", "left"))


def _values(measure: Measure) -> tuple[str, str]:
    if not measure.share:
        return f"{measure.a:.4f}", f"{measure.b:.4f}"
    scale = 1e6 if measure.name == "memory.peak" else 1.0
    return f"{measure.a / scale:,.0f}", f"{measure.b / scale:,.0f}"


def _change(measure: Measure) -> str:
    return number(measure.change, signed=True, digits=2)


def _interval(measure: Measure) -> str:
    return "" if math.isnan(measure.low) else interval(measure.low, measure.high, digits=2)


def _interval_and_word(measure: Measure) -> tuple[str, str]:
    found = _interval(measure)
    if not found:
        return "one seed: unknown", ""
    if measure.low == measure.high == 0:
        return found, "the same"
    return found, ("higher" if measure.change > 0 else "lower") if measure.sure else "cannot tell"


def _remarks(comparison: Comparison) -> Iterator[str]:
    seeds: dict[str, list[str]] = {}
    for head, pairs in comparison.pairs.items():
        common = name_seeds(a.seed for a, _ in pairs) if pairs else "no seed with a number"
        seeds.setdefault(common, []).append(head)
    yield from (f"{', '.join(heads)}: {common} in both." for common, heads in seeds.items())
    for kind, lines in comparison.differences.items():
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        yield f"Not the same ({kind}): {'; '.join(lines[:_SHOWN])}{more}."
    yield from comparison.notes
