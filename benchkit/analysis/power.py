"""Power analysis: how many seeds it takes to find a difference, from the variance in stored cells."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchkit.analysis.comparisons import compare
from benchkit.analysis.results import COUNTED
from benchkit.analysis.statistics import power_of
from benchkit.analysis.tables import NOTHING, Block, Row, Section, duration
from benchkit.core.errors import UserError

if TYPE_CHECKING:
    from benchkit.analysis.comparisons import Verdict
    from benchkit.analysis.results import Stored
    from benchkit.analysis.statistics import Difference


MOST = 10_000
"""More seeds than anyone trains."""

_BOUND = 0.8  # of the confidence that the seed variance is not larger than its cautious value


@dataclass(frozen=True)
class Need:
    """What one comparison takes.

    Attributes:
        detects: the smallest true difference that the seeds that are there would find with the power asked for.
        seeds: how many find the difference asked for; None where no number does.
        cautious: the same if seeds vary by as much as may be, at 80 % confidence, given how few there are.
        limit: the difference that unlimited seeds would find, given the test examples.
    """

    verdict: Verdict
    detects: float
    seeds: int | None
    cautious: int | None
    limit: float


def needs(stored: Stored, value: float, wanted: float, split: str = "test", against: str | None = None) -> list[Need]:
    """One for each pair of heads and task, of every phase whose predictions are kept.

    Args:
        value: the difference to find, in the tasks' metrics.
        wanted: with which probability.

    Raises:
        UserError: no two heads have two seeds in common.
    """
    verdicts = [each for phase in stored.results.phases for each in compare(stored, phase, split, against)]
    known = [each for each in verdicts if each.difference.seeds > 1]
    if not known:
        raise UserError("a plan takes two heads with two seeds in common, finished: run these first, then plan")
    return [_need(each, value, wanted) for each in known]


def _need(verdict: Verdict, value: float, wanted: float) -> Need:
    found = verdict.difference

    def after(seeds: int, seed_variance: float = found.seed_variance) -> Callable[[float], float]:
        return power_of(seed_variance, found.example_variance, seeds, found.example_freedom)

    cautious = _cautious(found)
    return Need(
        verdict,
        detects=_smallest(after(found.seeds), wanted),
        seeds=_fewest(lambda seeds: after(seeds)(value) >= wanted),
        cautious=_fewest(lambda seeds: after(seeds, cautious)(value) >= wanted),
        limit=_smallest(after(MOST * 1000), wanted),
    )


def _cautious(found: Difference) -> float:
    from scipy.special import chdtri

    return found.seed_variance * (found.seeds - 1) / float(chdtri(found.seeds - 1, _BOUND))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of seeds, at least 2, that is enough; None if `MOST` are not."""
    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
        if low >= MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _smallest(power: Callable[[float], float], wanted: float) -> float:
    """The smallest difference that is found as often as wanted, to three digits; 0 where any is, as nothing varies."""
    low, high = 0.0, 1e-6
    if power(sys.float_info.min) >= wanted:
        return 0.0
    while power(high) < wanted:
        low, high = high, high * 2
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= wanted else (middle, high)
    return high


def sections(stored: Stored, found: Sequence[Need], value: float, wanted: float) -> list[Section]:
    """A block a task of each phase, and what it comes to."""
    costs = {head: _seconds(stored, head) for head in stored.heads}
    parts = []
    for phase in dict.fromkeys(each.verdict.phase for each in found):
        here = [each for each in found if each.verdict.phase == phase]
        title = f"{phase}: seeds to find a difference of {value:g} with a power of {wanted:.0%}"
        tasks = dict.fromkeys(each.verdict.task for each in here)
        blocks = [_block(stored, [each for each in here if each.verdict.task == task], costs) for task in tasks]
        parts.append(Section(title, blocks))
    return [*parts, Section("", (), list(_notes(stored, found, value, costs)))]


def _seconds(stored: Stored, head: str) -> float:
    """Mean training and evaluation time of a seed, all phases; NaN where no cell finished."""
    each = [
        sum(result.train_seconds + result.eval_seconds for result in record.phases)
        for record in stored.records
        if record.head == head and record.status in COUNTED
    ]
    return sum(each) / len(each) if each else math.nan


def _block(stored: Stored, found: Sequence[Need], costs: Mapping[str, float]) -> Block:
    first = found[0].verdict
    title = f"{stored.results.title(first.task)} · {first.split}"
    header = (title, "seeds now", "they find", "seeds needed", "cautiously", "limit", "time")
    return Block(header, [Row(_cells(each, costs)) for each in found], ("left", *["right"] * 6))


def _cells(need: Need, costs: Mapping[str, float]) -> tuple[str, ...]:
    verdict, have = need.verdict, need.verdict.difference.seeds
    more = None if need.seeds is None else max(0, need.seeds - have)
    time = NOTHING if more is None else duration(more * (costs[verdict.a] + costs[verdict.b])) if more else "none"
    return (
        f"{verdict.b} − {verdict.a}",
        str(have),
        f"{need.detects:.3f}",
        _count(need.seeds),
        _count(need.cautious),
        f"{need.limit:.3f}",
        time,
    )


def _count(seeds: int | None) -> str:
    return "no number" if seeds is None else str(seeds)


def _notes(stored: Stored, found: Sequence[Need], value: float, costs: Mapping[str, float]) -> Iterator[str]:
    yield (
        "They find: the smallest true difference that the seeds so far would find. Limit: what unlimited seeds would; "
        "the rest is the chance of which test examples there are. Cautiously: if seeds vary by as much as these few "
        "allow at 80 % confidence. Time: of the missing seeds of both heads, one cell after another."
    )
    short = list(dict.fromkeys(each.verdict.task for each in found if each.seeds is None))
    if short:
        yield (
            f"No number of seeds finds {value:g} between every pair on {', '.join(short)}: the limit is above it. Only "
            "more test examples lower the limit: four times as many halve it."
        )
    counts = [each.seeds for each in found if each.seeds is not None]
    if counts:
        heads = dict.fromkeys(head for each in found for head in (each.verdict.a, each.verdict.b))
        missing = {head: max(0, max(counts) - _seeds(stored, head)) for head in heads}
        cells, spent = sum(missing.values()), sum(count * costs[head] for head, count in missing.items() if count)
        rest = f"{cells} more cells, about {duration(spent)}" if cells else "they are there"
        yield f"For all that seeds can do: {max(counts)} seeds of each head ({rest})."
    yield "One comparison at p < 0.05; correcting for several takes more."


def _seeds(stored: Stored, head: str) -> int:
    return sum(record.head == head and record.status in COUNTED for record in stored.records)
