"""Whether two configurations differ by more than chance: the paired bootstrap over seeds and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEED = 20190909  # of the resampling; the same for every comparison, so that a verdict can be repeated

Array = NDArray[np.float64]


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
    score: Callable[[Array, Array], float]


@dataclass(frozen=True)
class Difference:
    """B minus A.

    Attributes:
        a, b: mean over seeds.
        low, high: 95 % percentile interval of `b - a`.
        p: two-sided: how often chance alone would put a difference on this side of zero.
    """

    a: float
    b: float
    low: float
    high: float
    p: float

    @property
    def value(self) -> float:
        return self.b - self.a


def paired_bootstrap(tasks: Mapping[str, Paired], *, resamples: int = 2000) -> dict[str, Difference]:
    """Compare two configurations on each task, and, under the name "mean", on the mean over tasks.

    Each resample draws seeds, the same for all tasks, and each task's examples, with replacement; A and B are scored
    on the same draw. So the interval holds the chance of training and that of which examples a split has (Efron &
    Tibshirani 1993, chapter 16; Berg-Kirkpatrick et al. 2012). Few seeds make it narrower than it should be: three
    seeds can be drawn in ten ways.

    Raises:
        ValueError: there is no task, or the two were not given the same seeds and examples.
    """
    seeds = _check(tasks)
    random = np.random.default_rng(_SEED)
    drawn = np.empty((resamples, len(tasks)))
    for i in range(resamples):
        rows = random.integers(seeds, size=seeds)
        for j, task in enumerate(tasks.values()):
            drawn[i, j] = _difference(task, rows, random.integers(len(task.labels), size=len(task.labels)))
    found = {name: _summary(*_means(task), drawn[:, j]) for j, (name, task) in enumerate(tasks.items())}
    a, b = (float(np.mean([getattr(each, side) for each in found.values()])) for side in "ab")
    return {**found, "mean": _summary(a, b, drawn.mean(axis=1))}


def _check(tasks: Mapping[str, Paired]) -> int:
    """The number of seeds."""
    shapes = {name: (task.a.shape, task.b.shape) for name, task in tasks.items()}
    if not tasks or len({a[0] for a, _ in shapes.values()}) != 1:
        raise ValueError(f"a comparison takes tasks with the same seeds, not {shapes}")
    for name, task in tasks.items():
        if task.a.shape != task.b.shape or task.a.shape[1:] != task.labels.shape or not task.a.size:
            raise ValueError(f"{name}: predictions {shapes[name]} do not match {task.labels.shape} labels")
    return int(next(iter(shapes.values()))[0][0])


def _difference(task: Paired, seeds: NDArray[np.int64], examples: NDArray[np.int64]) -> float:
    labels = task.labels[examples]
    scores = {
        seed: task.score(labels, task.b[seed][examples]) - task.score(labels, task.a[seed][examples])
        for seed in set(seeds.tolist())
    }
    return float(np.mean([scores[seed] for seed in seeds.tolist()]))


def _means(task: Paired) -> tuple[float, float]:
    a, b = ([task.score(task.labels, each) for each in side] for side in (task.a, task.b))
    return float(np.mean(a)), float(np.mean(b))


def _summary(a: float, b: float, drawn: Array) -> Difference:
    low, high = np.quantile(drawn, [0.025, 0.975])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(a, b, float(low), float(high), min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))
