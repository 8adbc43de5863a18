"""Two runs side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchkit.analysis import measure as sameness
from benchkit.analysis.measure import MEAN_NAME, SHARES, Measure, Pair, costs, points, quality
from benchkit.analysis.results import Stored, name_seeds
from benchkit.analysis.tables import Block, Row, notes, table
from benchkit.core.errors import UserError, unknown
from benchkit.core.record import Record

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


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes:
        split: that the metrics are of.
        pairs: by head, the cells of the same seed that have a number in both runs.
        lost: by head, the cells of A with a number whose match in B has none, with what became of it.
        differences: what is not the same, by kind; see `sameness.differences`.
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
        across: differences that are meant; see `sameness.ACROSS`.
        split: `test` or `dev`; by default test, or dev where a task's test is unlabelled.

    Raises:
        UserError: no cell matches, the runs differ in what was not meant, a condition names what they do not have, or
            the split has no labels.
    """
    matched = _match(a, b)
    names = points([task for name, task in a.tasks.items() if name in b.tasks])
    check(conditions, list(matched), list(names.values()), SHARES)
    found = sameness.differences([pair for pairs in matched.values() for pair in pairs])
    sameness.refuse(found, across)
    usable = {head: [pair for pair in pairs if all(map(_counts, pair))] for head, pairs in matched.items()}
    lost = {head: [(x, y) for x, y in pairs if _counts(x) and not _counts(y)] for head, pairs in matched.items()}
    split = split or _split(usable)
    measures = [
        each
        for head, pairs in usable.items()
        if pairs
        for each in (*quality(head, pairs, a, b, _labelled(pairs, split)), *costs(head, pairs))
    ]
    return Comparison(split, usable, lost, measures, found, [*_alone(a, b), *_useless(matched)])


def judge(comparison: Comparison, conditions: Sequence[Condition], *, sure: bool = False) -> list[Verdict]:
    """Each condition on each head that it speaks of. A head that lost cells fulfils every condition on it.

    Args:
        sure: a condition holds only if it does on the whole interval; without an interval it does not.
    """
    verdicts = []
    for condition in conditions:
        for head in [condition.head] if condition.head else comparison.pairs:
            measure, lost = comparison.of(head, condition.name), _told(comparison.lost[head])
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
    """Whether a cell has numbers; a collapsed one has, those of training that diverged are chance."""
    return record.status in ("ok", "collapsed")


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


def _alone(a: Stored, b: Stored) -> list[str]:
    lines = []
    for name, one, other in (("first", a, b), ("second", b, a)):
        there = {(record.head, record.seed) for record in other.records}
        seeds: dict[str, list[int]] = {}
        for record in one.records:
            if (record.head, record.seed) not in there:
                seeds.setdefault(record.head, []).append(record.seed)
        lines += [f"Only in the {name} run: {head}, {name_seeds(each)}." for head, each in seeds.items()]
    return lines


def _useless(matched: Mapping[str, Sequence[Pair]]) -> list[str]:
    return [
        f"No number in the {name} run: {head} seed {pair[side].seed}, {pair[side].status}: {pair[side].error}"
        for head, pairs in matched.items()
        for pair in pairs
        for side, name in enumerate(("first", "second"))
        if not _counts(pair[side])
    ]


def _told(lost: Sequence[Pair]) -> str:
    """`failed with seeds 0, 2`."""
    seeds: dict[str, list[int]] = {}
    for _, record in lost:
        seeds.setdefault(record.status, []).append(record.seed)
    return ", ".join(f"{status} with {name_seeds(each)}" for status, each in seeds.items())


_ALIGN = ("left", "right", "right", "right", "left", "left")
_UNITS = {"speed.train": "steps a second", "speed.eval": "examples a second", "memory.peak": "MB"}
_SHOWN = 8


def render(comparison: Comparison, columns: int = 100) -> str:
    """A block a quantity, then what is not the same in the two runs."""
    names = list(dict.fromkeys(each.name for each in comparison.measures))
    rows = {name: [each for each in comparison.measures if each.name == name] for name in names}
    text = table([_block(name, each, comparison.split) for name, each in rows.items()], "terminal") if rows else ""
    lines = "\n".join(_wrapped(line, columns) for line in _remarks(comparison))
    return "\n\n".join(part for part in (text, lines) if part)


def render_verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line a condition and head: `✗` where it holds, which is the regression looked for."""
    for each in verdicts:
        mark = "✗" if each.holds else "✓"
        reason = each.lost and f"{each.lost}, no number to compare"
        if not reason and each.measure:
            reason = f"{_change(each.measure)} {'%' if each.measure.share else 'points'}{_in_brackets(each.measure)}"
        yield f"{mark} {each.condition.text}: {each.head} {reason or 'has no number in either run'}"


def _block(name: str, measures: Sequence[Measure], split: str) -> Block:
    share = name in SHARES
    title = f"{name} · {_UNITS[name]}" if share else f"{'mean of tasks' if name == MEAN_NAME else name} · {split}"
    header = (title, "A", "B", "B / A − 1, %" if share else "B − A, points", "95 % interval", "")
    return Block(
        header, [Row((each.head, *_values(each), _change(each), *_told_table(each))) for each in measures], _ALIGN
    )


def _values(measure: Measure) -> tuple[str, str]:
    if not measure.share:
        return f"{measure.a:.4f}", f"{measure.b:.4f}"
    scale = 1e6 if measure.name == "memory.peak" else 1.0
    return f"{measure.a / scale:,.0f}", f"{measure.b / scale:,.0f}"


def _change(measure: Measure) -> str:
    return f"{measure.change:+.2f}".replace("-", "−")


def _interval(measure: Measure) -> str:
    if math.isnan(measure.low):
        return ""
    return f"{measure.low:+.2f} to {measure.high:+.2f}".replace("-", "−")


def _told_table(measure: Measure) -> tuple[str, str]:
    if not _interval(measure):
        return "one seed: unknown", ""
    if measure.low == measure.high == 0:
        return _interval(measure), "the same"
    word = ("higher" if measure.change > 0 else "lower") if measure.sure else "cannot tell"
    return _interval(measure), word


def _in_brackets(measure: Measure) -> str:
    found = _interval(measure)
    return f" ({found})" if found else ""


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


def _wrapped(line: str, columns: int) -> str:
    return notes([line], "terminal", columns)
