"""Learning rates over a phase."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchkit.core.protocol import Phase
from benchkit.training.optimizer import rate


def rates(steps: int = 100, **settings: object) -> list[float]:
    phase = Phase(learning_rate=2.0, **settings)  # type: ignore[arg-type]
    return [rate(phase, step, steps) for step in range(steps)]


def test_constant_is_constant() -> None:
    assert rates() == [2.0] * 100


def test_linear_falls_evenly_and_never_to_zero() -> None:
    found = rates(schedule="linear")
    assert found[0] == 2.0
    assert found[50] == pytest.approx(1.0)
    assert found[-1] == pytest.approx(0.02)
    falls = [first - second for first, second in pairwise(found)]
    assert falls == pytest.approx([0.02] * 99)


def test_cosine_falls_slowly_first_and_last() -> None:
    found = rates(schedule="cosine")
    assert found[0] == 2.0
    assert found[25] == pytest.approx(1.7071, abs=1e-4)
    assert found[50] == pytest.approx(1.0)
    assert found[75] == pytest.approx(0.2929, abs=1e-4)
    assert 0 < found[-1] < 0.001


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_a_warmup_rises_to_the_rate_then_the_schedule_begins(schedule: str) -> None:
    found = rates(schedule=schedule, warmup=0.1)
    assert found[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert found[10] == 2.0
    assert max(found) == 2.0
    assert all(first >= second for first, second in pairwise(found[10:]))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_no_step_of_a_short_phase_is_wasted(schedule: str, warmup: float, steps: int) -> None:
    found = rates(steps, schedule=schedule, warmup=warmup)
    assert all(0 < each <= 2.0 for each in found)
