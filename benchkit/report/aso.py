"""Almost stochastic order: whether one configuration is better at every quantile of its seeds, or nearly so."""

from __future__ import annotations

import math

import numpy as np

from benchkit.stats import Array

_RESAMPLES = 1000
_SEED = 20190909
_Z95 = 1.6448536269514722


def min_epsilon(better: Array, worse: Array, *, resamples: int = _RESAMPLES) -> float:
    """How far `better` is, at most, from beating `worse` at every quantile: 0 it does, 1 the other does.

    An upper bound that holds with 95 % confidence (Dror, Shlomov & Reichart 2019; del Barrio, Cuesta-Albertos & Matrán
    2018). It takes seeds alone as chance, and many of them.

    Args:
        better, worse: (seed,), one score each.
    """
    random = np.random.default_rng(_SEED)
    found = violation(better, worse)
    drawn = [violation(random.choice(better, len(better)), random.choice(worse, len(worse))) for _ in range(resamples)]
    return float(np.clip(found + _Z95 * np.std(drawn), 0.0, 1.0))


def violation(better: Array, worse: Array) -> float:
    """Share of the squared distance between the quantiles of two samples where `better` is below `worse`; 0.5 where
    there is no distance.
    """
    n, m = len(better), len(worse)
    steps = math.lcm(n, m)
    if steps <= 10_000:  # both quantile functions are constant on steps of this size
        first, second = np.repeat(np.sort(better), steps // n), np.repeat(np.sort(worse), steps // m)
    else:
        places = (np.arange(10_000) + 0.5) / 10_000
        first, second = (np.sort(each)[(places * len(each)).astype(int)] for each in (better, worse))
    gap = first - second
    total = float(gap @ gap)
    return 0.5 if total == 0 else float(np.square(np.minimum(gap, 0.0)).sum()) / total
