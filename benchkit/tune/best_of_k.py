"""What the best of k trials is expected to reach, so that heads are compared at equal budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BestOfK:
    """The best of `k` trials: its expected value and standard deviation."""

    k: int
    mean: float
    std: float


def best_of_k(values: Sequence[float]) -> list[BestOfK]:
    """Expected maximum of k draws, k = 1 … n, from the n values that a search found.

    Exact for draws with replacement (Dodge et al. 2019, "Show Your Work", equations 3 to 6): with F the share of values
    up to v, the maximum of k draws is at most v with probability F(v)^k. It takes trials as exchangeable, which those
    of a random search are; of a search that learns, later trials are better than early ones, and the curve says what
    trials of that search are worth, not how fast it finds them.
    """
    found, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    share = np.cumsum(counts) / max(1, len(values))
    return [_moments(k, found, share) for k in range(1, len(values) + 1)]


def _moments(k: int, values: np.ndarray, share: np.ndarray) -> BestOfK:
    mass = np.diff(share**k, prepend=0.0)  # probability that the maximum is this value
    mean = float((mass * values).sum())
    return BestOfK(k, mean, math.sqrt(max(0.0, float((mass * (values - mean) ** 2).sum()))))
