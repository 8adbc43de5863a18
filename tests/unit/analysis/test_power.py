"""Power analysis: answers where nothing varies, and the smallest numbers that are enough."""

from __future__ import annotations

import math

import pytest

from benchkit.analysis.statistics import Difference, Need, need, power_of


def _found(seed_variance: float, example_variance: float) -> Need:
    return need(Difference(0.5, 0.5, 0.5, 0.5, 1.0, 3, seed_variance, example_variance, 99), 0.01, 0.8)


def test_without_any_variance_two_seeds_find_every_difference() -> None:
    found = _found(0.0, 0.0)
    assert (found.detects, found.limit, found.seeds, found.cautious) == (0.0, 0.0, 2, 2)


@pytest.mark.parametrize("variances", [(1e-4, 0.0), (0.0, 1e-6), (1e-4, 1e-6), (1e-30, 0.0)])
def test_what_is_found_is_the_smallest_that_is_enough(variances: tuple[float, float]) -> None:
    found = _found(*variances)
    assert power_of(*variances, 3, 99)(found.detects) >= 0.8
    assert power_of(*variances, 3, 99)(found.detects * 0.998) < 0.8 or found.detects <= 1e-6
    assert found.seeds is not None
    assert power_of(*variances, found.seeds, 99)(0.01) >= 0.8
    assert found.seeds == 2 or power_of(*variances, found.seeds - 1, 99)(0.01) < 0.8
    assert math.isfinite(found.limit)
