"""How long a run will still take."""

from __future__ import annotations

from typing import Any

import pytest

from benchkit.experiment.estimate import Eta, clock


def cell(head: str = "a", done: bool = False, **phases: int) -> dict[str, Any]:
    return {"head": head, "phases": phases or {"pretrain": 4}, "done": done}


def test_nothing_is_known_before_the_first_epoch() -> None:
    assert Eta({"1": cell()}, jobs=1).left() == (0.0, False)


def test_nothing_is_left_of_cells_that_are_done() -> None:
    assert Eta({"1": cell(done=True)}, jobs=1).left() == (0.0, True)
    assert Eta({}, jobs=1).left() == (0.0, True)


def test_the_epochs_so_far_tell_of_the_rest() -> None:
    eta = Eta({"1": cell(), "2": cell()}, jobs=1)
    eta.epoch("1", "pretrain", 1, 10.0)
    assert eta.left() == (70.0, True)
    eta.epoch("1", "pretrain", 2, 20.0)
    assert eta.left() == (60.0, True)


def test_a_head_is_measured_by_its_own_epochs() -> None:
    eta = Eta({"1": cell("a"), "2": cell("b"), "3": cell("b")}, jobs=1)
    eta.epoch("1", "pretrain", 4, 4.0)
    assert eta.left() == (8.0, True), "another head's, while it has none"
    eta.epoch("2", "pretrain", 1, 10.0)
    assert eta.left() == (70.0, True)


def test_a_phase_that_has_not_begun_anywhere_is_unknown() -> None:
    eta = Eta({"1": cell(pretrain=2, finetune=3)}, jobs=1)
    eta.epoch("1", "pretrain", 1, 5.0)
    assert eta.left() == (5.0, False)
    eta.epoch("1", "pretrain", 2, 10.0)
    eta.epoch("1", "finetune", 1, 7.0)
    assert eta.left() == (14.0, True)


def test_a_cell_that_ends_early_takes_no_more() -> None:
    eta = Eta({"1": cell(), "2": cell()}, jobs=1)
    eta.epoch("1", "pretrain", 1, 10.0)
    eta.end("1")
    assert eta.left() == (40.0, True)


def test_cells_run_side_by_side() -> None:
    eta = Eta({str(i): cell() for i in range(4)}, jobs=2)
    eta.epoch("0", "pretrain", 4, 4.0)
    eta.end("0")
    assert eta.left() == (6.0, True)


def test_one_cell_is_no_faster_for_more_jobs() -> None:
    eta = Eta({"1": cell()}, jobs=4)
    eta.epoch("1", "pretrain", 1, 10.0)
    assert eta.left() == (30.0, True)


def test_a_resumed_cell_has_its_earlier_phases_behind_it() -> None:
    eta = Eta({"1": cell(pretrain=10, finetune=3)}, jobs=1)
    eta.epoch("1", "finetune", 2, 20.0)
    assert eta.left() == (10.0, True)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_a_clock_is_short(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
