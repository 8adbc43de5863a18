"""How far a number can be trusted: intervals from repetitions, for one head and for the ratio of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, and where that of another run will be; both ends are NaN where nothing was repeated."""

    value: float
    low: float
    high: float


def repeatable(values: Sequence[float], family: int = 1) -> Interval:
    """The geometric mean of a positive quantity, one value a repetition, with the range of another run's.

    It is a prediction interval, not one for the mean: t times the spread times sqrt(2 / n), so that a second run of as
    many repetitions falls inside with 95 % (Hahn & Meeker 1991, section 4.7), its own chance included.

    Args:
        family: so many intervals are shown beside each other, and are to hold together (Bonferroni).
    """
    from scipy.special import stdtrit

    logs, count = [math.log(value) for value in values], len(values)
    middle = mean(logs)
    if count < 2:
        return Interval(math.exp(middle), math.nan, math.nan)
    quantile = float(stdtrit(count - 1, 1 - (1 - LEVEL) / 2 / family))
    reach = quantile * stdev(logs) * math.sqrt(2 / count)
    return Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def ratio(base: Sequence[Sequence[float]], other: Sequence[Sequence[float]], family: int = 1) -> Interval:
    """How many times as long `other` takes as `base`.

    Both are mean times of a step by repetition and cycle. In one cycle A B … B A each head ran at the same time on
    average, so what drifts steadily is in both and leaves the ratio; the median over a repetition's cycles
    leaves out what came between once.
    """
    ratios = [
        median(late / early for early, late in zip(ours, theirs, strict=True))
        for ours, theirs in zip(base, other, strict=True)
    ]
    return repeatable(ratios, family)
