"""Metrics: `score(labels (n,), predictions (n,)) -> float`, higher is better, computed in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchkit.core.task import Metric

if TYPE_CHECKING:
    import numpy as np


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    first, second = _vectors(labels, predictions)
    return float((first == second).mean())


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    import numpy as np

    first, second = _vectors(labels, predictions)
    # Asked of the values, not of their deviations: the mean of equal floats may differ from them in the last bit.
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    first, second = _unit(first), _unit(second)
    return float(np.clip(first @ second, -1.0, 1.0))


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy.stats import rankdata

    first, second = _vectors(labels, predictions)
    return _pearson(rankdata(first), rankdata(second))


def _unit(values: np.ndarray) -> np.ndarray:
    """Centred and of length 1; scaled by the largest first, so that squares neither over- nor underflow."""
    import numpy as np

    values = values / np.abs(values).max()
    centred = values - values.mean()
    centred = centred / np.abs(centred).max()
    unit: np.ndarray = centred / np.linalg.norm(centred)
    return unit


def _vectors(labels: np.ndarray, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    first, second = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or not len(first):
        raise ValueError(f"a metric takes two vectors of one length, not {first.shape} and {second.shape}")
    return first, second


accuracy = Metric("accuracy", _accuracy)
"""Share of predictions that equal the label."""

pearson = Metric("pearson", _pearson)
"""Linear correlation; 0 where either side is constant."""

spearman = Metric("spearman", _spearman)
"""Correlation of ranks, ties at their mean rank; 0 where either side is constant."""
