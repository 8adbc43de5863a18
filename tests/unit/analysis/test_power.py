"""Power analysis: answers where nothing varies, and the smallest numbers that are enough."""

from __future__ import annotations

import math

import pytest

from benchkit.analysis.comparisons import Verdict
from benchkit.analysis.power import Need, _need
from benchkit.analysis.statistics import Difference, power


def _found(seed_variance: float, example_variance: float) -> Need:
    difference = Difference(0.5, 0.5, 0.5, 0.5, 1.0, 3, seed_variance, example_variance, 99)
    return _need(Verdict("pretrain", "sst", "test", "a", "b", difference, 1.0, None), 0.01, 0.8)


def test_without_any_variance_two_seeds_find_every_difference() -> None:
    need = _found(0.0, 0.0)
    assert (need.detects, need.limit, need.seeds, need.cautious) == (0.0, 0.0, 2, 2)


@pytest.mark.parametrize("variances", [(1e-4, 0.0), (0.0, 1e-6), (1e-4, 1e-6), (1e-30, 0.0)])
def test_what_is_found_is_the_smallest_that_is_enough(variances: tuple[float, float]) -> None:
    need = _found(*variances)
    assert power(need.detects, *variances, 3, 99) >= 0.8
    assert power(need.detects * 0.998, *variances, 3, 99) < 0.8 or need.detects <= 1e-6
    assert need.seeds is not None
    assert power(0.01, *variances, need.seeds, 99) >= 0.8
    assert need.seeds == 2 or power(0.01, *variances, need.seeds - 1, 99) < 0.8
    assert math.isfinite(need.limit)
