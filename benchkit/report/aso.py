"""Almost stochastic order: whether one configuration is better at every quantile of its seeds, or nearly so."""

from __future__ import annotations

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
    drawn = (random.choice(each, (resamples, len(each))) for each in (better, worse))
    found = violation(better, worse)
    return float(np.clip(found + _Z95 * np.std(_violations(*drawn)), 0.0, 1.0))


def violation(better: Array, worse: Array) -> float:
    """Share of the squared distance between the quantiles of two samples where `better` is below `worse`; 0.5 where
    there is no distance.
    """
    return float(_violations(better[None], worse[None])[0])


def _violations(better: Array, worse: Array) -> Array:
    """(k,) of samples (k, n) and (k, m). Both quantile functions are constant between neighbouring steps."""
    n, m = better.shape[1], worse.shape[1]
    steps = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))  # in 1 / (n m)
    middle = steps[:-1]
    first, second = np.sort(better, axis=1)[:, middle // m], np.sort(worse, axis=1)[:, middle // n]
    gap, weight = first - second, np.diff(steps)
    total, below = (gap**2) @ weight, (np.minimum(gap, 0.0) ** 2) @ weight
    shares: Array = np.divide(below, total, out=np.full(len(total), 0.5), where=total > 0)
    return shares
