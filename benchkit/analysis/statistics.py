"""Statistics of comparisons: spreads, intervals, paired differences, power and almost stochastic order."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchkit.nn import metrics

# Of a metric that is neither accuracy nor Pearson: it is scored without each of so many groups of examples.
_GROUPS = 50
_GROUPS_SEED = 20190909
_LEVEL = 0.05  # of intervals, one minus their confidence
_TINY, _LARGE = 1e-300, 1e9

Array = NDArray[np.float64]
Score = Callable[[Array, Array], float]


@dataclass(frozen=True)
class Paired:
    """One task's predictions of two configurations, A and B, trained with the same seeds.

    Attributes:
        labels: (n,).
        a, b: (seed, n): predictions for the same examples in the same order.
        score: the metric, `score(labels (n,), predictions (n,)) -> float`.
    """

    labels: Array
    a: Array
    b: Array
    score: Score


@dataclass(frozen=True)
class Evidence:
    """One configuration's scores on one task, and how much each example did for them.

    Attributes:
        scores: (seed,).
        parts: (seed, n): by how much a score is above the mean for having this example (its influence); the mean of
            each row is 0.
    """

    scores: Array
    parts: Array


@dataclass(frozen=True)
class Difference:
    """B minus A.

    Attributes:
        a, b: mean over seeds.
        low, high: 95 % interval of `b - a`; NaN below two seeds.
        p: two-sided: how often chance alone would put a difference this far from zero; NaN below two seeds.
        seeds: how many are behind it.
        seed_variance: between seeds, of the difference of one seed; more seeds average it out.
        example_variance: of the difference, for the split having these examples; no number of seeds lowers it.
        example_freedom: degrees of freedom of `example_variance`.
    """

    a: float
    b: float
    low: float
    high: float
    p: float
    seeds: int = 0
    seed_variance: float = math.nan
    example_variance: float = math.nan
    example_freedom: float = math.inf

    @property
    def value(self) -> float:
        return self.b - self.a


def evidence(labels: Array, predictions: Array, score: Score) -> Evidence:
    """Score predictions (seed, n) and find the influence of each example.

    For accuracy that is exact, for Pearson it is the influence function (Devlin, Gnanadesikan & Kettenring 1975); any
    other metric is scored again without each of 50 groups of examples, and `n` is the number of groups (the
    delete-a-group jackknife, Efron & Tibshirani 1993, chapter 11).

    Raises:
        ValueError: labels and predictions do not match.
    """
    if predictions.ndim != 2 or predictions.shape[1:] != labels.shape or not predictions.size:
        raise ValueError(f"predictions {predictions.shape} do not match {labels.shape} labels")
    scores = np.array([score(labels, row) for row in predictions])
    if score == metrics.accuracy.score:
        parts = (predictions == labels) - scores[:, None]
    elif score == metrics.pearson.score:
        parts = _pearson_parts(labels, predictions, scores[:, None])
    else:
        parts = _group_parts(labels, predictions, score)
    return Evidence(scores, parts)


def _pearson_parts(labels: Array, predictions: Array, scores: Array) -> Array:
    """0 where either side is constant, as is the score."""
    first, second = (each - each.mean(axis=-1, keepdims=True) for each in (labels, predictions))
    first, second = (
        np.divide(each, spread, out=np.zeros_like(each), where=np.ptp(each, axis=-1, keepdims=True) > 0)
        for each in (first, second)
        for spread in [each.std(axis=-1, keepdims=True)]
    )
    parts: Array = first * second - scores * (first**2 + second**2) / 2
    return parts


def _group_parts(labels: Array, predictions: Array, score: Score) -> Array:
    count = min(_GROUPS, len(labels))
    group = np.random.default_rng(_GROUPS_SEED).permutation(np.arange(len(labels)) % count)
    without = np.array([[score(labels[group != k], row[group != k]) for k in range(count)] for row in predictions])
    parts: Array = (count - 1) * (without.mean(axis=1, keepdims=True) - without)
    return parts


def differences(a: Mapping[str, Evidence], b: Mapping[str, Evidence]) -> dict[str, Difference]:
    """Compare two configurations on each task, and, under the name "mean", on the mean over tasks.

    Rows of the two are the same seeds. Tasks have examples of their own, so that their variances add up.

    Raises:
        ValueError: there is no task, or the two were not given the same tasks, seeds and examples.
    """
    shapes, others = ({name: each.parts.shape for name, each in side.items()} for side in (a, b))
    if not shapes or shapes != others or len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"a comparison takes the same tasks, seeds and examples on both sides, not {shapes}, {others}")
    spreads = {name: _example_variance(b[name].parts - a[name].parts) for name in a}
    found = {name: _judge(a[name].scores, b[name].scores, [spreads[name]]) for name in a}
    shared = [(variance / len(a) ** 2, freedom) for variance, freedom in spreads.values()]
    first, second = (np.mean([each.scores for each in side.values()], axis=0) for side in (a, b))
    return {**found, "mean": _judge(first, second, shared)}


def paired_differences(tasks: Mapping[str, Paired]) -> dict[str, Difference]:
    """`differences` of predictions.

    Raises:
        ValueError: there is no task, or predictions do not match.
    """
    a, b = (
        {name: evidence(task.labels, getattr(task, side), task.score) for name, task in tasks.items()} for side in "ab"
    )
    return differences(a, b)


def _example_variance(parts: Array) -> tuple[float, float]:
    """Variance that the choice of examples gives the mean of `parts` (seed, n) besides what shows between seeds, and
    its degrees of freedom.

    What an example does in all seeds alike is in it. What it does in one seed by chance, the interaction, is in the
    variance between seeds already, and so is taken off here.
    """
    seeds, count = parts.shape
    if count < 2:
        return 0.0, math.inf
    common = parts.mean(axis=0)
    variance = float(common @ common) / (count - 1) / count
    if seeds > 1:
        rest = parts - common
        variance -= float(np.vdot(rest, rest)) / ((seeds - 1) * (count - 1)) / (seeds * count)
    return max(variance, 0.0), count - 1


def _judge(a: Array, b: Array, examples: Sequence[tuple[float, float]]) -> Difference:
    seeds, (first, second) = len(a), (float(side.mean()) for side in (a, b))
    variance = sum(each for each, _ in examples)
    weight = sum(each**2 / freedom for each, freedom in examples)
    freedom = variance**2 / weight if weight else math.inf
    if seeds < 2:
        return Difference(first, second, math.nan, math.nan, math.nan, seeds, math.nan, variance, freedom)
    between = float((b - a).var(ddof=1))
    half, p = _student(second - first, (between, variance), seeds, freedom)
    return Difference(first, second, second - first - half, second - first + half, p, seeds, between, variance, freedom)


def standard_error(
    seed_variance: float, example_variance: float, seeds: int, freedom: float, level: float = _LEVEL
) -> tuple[float, float]:
    """Of a difference over so many seeds, and its degrees of freedom for a test at `level`.

    The usual ones (Satterthwaite 1946) have the exponent 2 whatever the level. With three seeds a test at 5 % then errs
    in up to 7.8 % of cases, and one at the 0.1 % that a correction for many comparisons asks for in up to 1.7 %: the
    far tail belongs to seeds that came out alike by chance. The exponent here keeps the errors within 1.3 times the
    level: `benchmarks/simulate_verdicts.py`.

    Args:
        freedom: degrees of freedom of `example_variance`.
    """
    nu = seeds - 1
    total = seed_variance / seeds + example_variance
    if total == 0:
        return 0.0, math.inf
    share = seed_variance / seeds / total
    exponent = min(2 - 1.8 / nu, 0.55 * nu * (math.log(_LEVEL) / math.log(level)) ** 1.65)
    inverse = share**exponent / nu + (1 - share) ** 2 / freedom
    return math.sqrt(total), min(1 / inverse, _LARGE)


def _student(value: float, variances: tuple[float, float], seeds: int, freedom: float) -> tuple[float, float]:
    """Half the width of the 95 % interval, and p: the level at which a test would just find the difference."""
    from scipy.special import stdtr, stdtrit

    def tail(level: float) -> float:
        error, df = standard_error(*variances, seeds, freedom, level)
        return float(2 * stdtr(df, -abs(value) / error))

    error, df = standard_error(*variances, seeds, freedom)
    if error == 0:
        return 0.0, float(value == 0)
    half, low, high = float(stdtrit(df, 1 - _LEVEL / 2)) * error, tail(_LEVEL), _LEVEL
    if low >= high:
        return half, low
    # The smaller the level, the fewer the degrees of freedom and the larger the tail: they meet once.
    while low < high * (1 - 1e-10) and high > _TINY:
        middle = math.sqrt(max(low, _TINY) * high)
        low, high = (middle, high) if tail(middle) > middle else (low, middle)
    return half, high


def mcnemar(labels: Array, a: Array, b: Array) -> float:
    """Whether A and B err equally often, a seed at a time: exact McNemar, the p of all seeds as twice their median.

    That is a valid p however seeds depend on each other (Rüger 1978). It takes models as they are: the chance of
    training, which a difference of configurations has besides, is not in it.

    Args:
        labels: (n,).
        a, b: (seed, n): predicted classes.
    """
    from scipy.special import bdtr

    first, second = a == labels, b == labels
    only_a, only_b = (first & ~second).sum(axis=1), (second & ~first).sum(axis=1)
    each = np.minimum(1.0, 2 * bdtr(np.minimum(only_a, only_b), only_a + only_b, 0.5))
    return float(each[0]) if len(each) == 1 else min(1.0, 2 * float(np.median(each)))


def holm(values: Sequence[float]) -> list[float]:
    """The p values corrected for their number (Holm 1979); NaN stays and is not counted."""
    known = sorted((value, place) for place, value in enumerate(values) if not math.isnan(value))
    corrected, highest = [math.nan] * len(values), 0.0
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        corrected[place] = highest
    return corrected


def power_of(seed_variance: float, example_variance: float, seeds: int, freedom: float) -> Callable[[float], float]:
    """How often a true difference would be found (p < 0.05), with variances as in `Difference`, as its function.

    An approximation: as if the standard error and its degrees of freedom were known.
    """
    from scipy.special import nctdtr, ndtr, stdtrit

    error, df = standard_error(seed_variance, example_variance, seeds, freedom)
    if error == 0:
        return lambda value: float(value != 0)
    df = min(df, 1e6)
    limit = float(stdtrit(df, 1 - _LEVEL / 2))

    def found(value: float) -> float:
        shift = abs(value) / error
        if shift - limit > 8:  # beyond what the series of the noncentral t is good for
            return 1.0
        return float(1 - (nctdtr(df, shift, limit) if df < 1e4 else ndtr(limit - shift)))

    return found


_MOST = 10_000  # seeds: more than anyone trains
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

    detects: float
    seeds: int | None
    cautious: int | None
    limit: float


def need(found: Difference, value: float, wanted: float) -> Need:
    """What it takes to find a difference of `value` with the power `wanted`, by the variances of one that was measured
    over two seeds at least.
    """
    from scipy.special import chdtri

    def after(seeds: int, seed_variance: float = found.seed_variance) -> Callable[[float], float]:
        return power_of(seed_variance, found.example_variance, seeds, found.example_freedom)

    largest = found.seed_variance * (found.seeds - 1) / float(chdtri(found.seeds - 1, _BOUND))
    return Need(
        detects=_smallest(after(found.seeds), wanted),
        seeds=_fewest(lambda seeds: after(seeds)(value) >= wanted),
        cautious=_fewest(lambda seeds: after(seeds, largest)(value) >= wanted),
        limit=_smallest(after(_MOST * 1000), wanted),
    )


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest number of seeds, at least 2, that is enough; None if `_MOST` are not."""
    high = 2
    while not enough(high):
        high *= 2
        if high >= 2 * _MOST:
            return None
    return bisect_left(range(high), True, lo=high // 2 + 1, key=enough) if high > 2 else 2


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


@dataclass(frozen=True)
class Spread:
    """What is known of a number from a few seeds; NaN where nothing is.

    Attributes:
        std: sample standard deviation (n - 1); NaN below two values.
        low, high: 95 % t-interval of the mean over seeds; NaN below two values. It holds the chance of
            training alone, not that of which examples the split happens to have.
    """

    n: int
    mean: float = math.nan
    std: float = math.nan
    low: float = math.nan
    high: float = math.nan


def spread(values: Iterable[float]) -> Spread:
    """Summarise one value a seed."""
    array = np.fromiter(values, dtype=np.float64)
    n, mean = len(array), float(array.mean()) if len(array) else math.nan
    if n < 2:
        return Spread(n, mean)
    from scipy.special import stdtrit  # scipy.stats gives the same quantile a second of imports later

    std = float(array.std(ddof=1))
    half = float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half)


_SEED = 20190909
_Z95 = 1.6448536269514722


def min_epsilon(better: Array, worse: Array, *, resamples: int = 1000) -> float:
    """How far `better` is, at most, from beating `worse` at every quantile: 0 it does, 1 the other does.

    An upper bound that holds with 95 % confidence (Dror, Shlomov & Reichart 2019; del Barrio, Cuesta-Albertos & Matrán
    2018). It takes seeds alone as chance, and many of them.

    Args:
        better, worse: (seed,), one score each.
    """
    random = np.random.default_rng(_SEED)
    drawn = (random.choice(each, (resamples, len(each))) for each in (better, worse))
    (found,) = violations(better[None], worse[None])
    return float(np.clip(found + _Z95 * np.std(violations(*drawn)), 0.0, 1.0))


def violations(better: Array, worse: Array) -> Array:
    """Shares (k,) of the squared distance between the quantiles of samples (k, n) and (k, m) where `better` is below
    `worse`; 0.5 where there is no distance. Both quantile functions are constant between neighbouring steps.
    """
    n, m = better.shape[1], worse.shape[1]
    steps = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))  # in 1 / (n m)
    middle = steps[:-1]
    first, second = np.sort(better, axis=1)[:, middle // m], np.sort(worse, axis=1)[:, middle // n]
    gap, weight = first - second, np.diff(steps)
    total, below = (gap**2) @ weight, (np.minimum(gap, 0.0) ** 2) @ weight
    shares: Array = np.divide(below, total, out=np.full(len(total), 0.5), where=total > 0)
    return shares
