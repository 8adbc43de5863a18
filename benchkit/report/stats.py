"""Mean and spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


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
    n = len(array)
    if n == 0:
        return Spread(0)
    mean = float(array.mean())
    if n == 1:
        return Spread(1, mean)
    from scipy.special import stdtrit  # scipy.stats gives the same quantile a second of imports later

    std = float(array.std(ddof=1))
    half = float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return Spread(n, mean, std, mean - half, mean + half)
