"""Two runs, cell by cell: what matches, what differs, by how much, and whether that is a regression."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from benchkit.compare import sameness
from benchkit.compare.conditions import Condition, check
from benchkit.compare.measure import SHARES, Measure, costs, points, quality
from benchkit.compare.sameness import Pair
from benchkit.errors import UserError
from benchkit.record import Record
from benchkit.report.results import name_seeds
from benchkit.report.stored import Stored


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
