"""Verdicts of stored runs: which cells have a say, on which split, and which heads are told apart."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from helpers.cells import write_cells

from benchkit.analysis.comparisons import Verdict, compare, groups
from benchkit.analysis.results import Stored, read_runs
from benchkit.analysis.statistics import Difference
from benchkit.core.errors import UserError

SKILLS = {"good": 0.9, "same": 0.89, "bad": 0.4}


def _read(*folders: Path) -> Stored:
    return read_runs(folders, log=lambda _: None)


def _pair(verdicts: list[Verdict], task: str, a: str, b: str) -> Verdict:
    (found,) = [each for each in verdicts if (each.task, each.a, each.b) == (task, a, b)]
    return found


def test_each_pair_on_each_task_and_the_mean(tmp_path: Path) -> None:
    write_cells(tmp_path, SKILLS, range(5))
    found = compare(_read(tmp_path), "pretrain")
    assert len(found) == 3 * 4
    assert {each.task for each in found} == {"sst", "quora", "sts", "mean"}
    assert _pair(found, "sst", "bad", "good").differ
    assert _pair(found, "sst", "bad", "good").difference.value > 0.3
    assert not _pair(found, "sst", "good", "same").differ
    assert _pair(found, "sst", "bad", "good").mcnemar is not None
    assert _pair(found, "sts", "bad", "good").mcnemar is None
    for each in found:
        assert each.p_holm >= each.difference.p
    here = [each for each in found if each.task == "quora"]
    assert groups(here, ["good", "same", "bad"]) == (("good", "same"), ("bad",))


def test_against_one_head_corrects_for_fewer_comparisons(tmp_path: Path) -> None:
    write_cells(tmp_path, SKILLS)
    stored = _read(tmp_path)
    each, one = compare(stored, "pretrain"), compare(stored, "pretrain", against="same")
    assert {(v.a, v.b) for v in one} == {("same", "good"), ("same", "bad")}
    assert one[0].difference.p == pytest.approx(_pair(each, "sst", "bad", "same").difference.p)
    assert _pair(one, "sst", "same", "bad").p_holm <= _pair(each, "sst", "bad", "same").p_holm
    with pytest.raises(UserError, match="did you mean 'same'"):
        compare(stored, "pretrain", against="sane")


def test_only_common_seeds_of_cells_that_count(tmp_path: Path) -> None:
    write_cells(tmp_path, {"good": 0.9}, range(4))
    write_cells(tmp_path, {"bad": 0.5}, (1, 2, 5))
    write_cells(tmp_path, {"bad": 0.5}, (3,), status="diverged", error="pretrain: loss is NaN")
    write_cells(tmp_path, {"bad": 0.5}, (0,), status="collapsed", error="sst predicts one class")
    write_cells(tmp_path, {"gone": 0.5}, (0,), status="failed", error="out of memory")
    found = compare(_read(tmp_path), "pretrain")
    assert {(each.a, each.b, each.difference.seeds) for each in found} == {("bad", "good", 3)}


def test_one_seed_in_common_is_no_verdict(tmp_path: Path) -> None:
    write_cells(tmp_path, {"a": 0.9, "b": 0.3}, (0,))
    found = compare(_read(tmp_path), "pretrain")
    assert math.isnan(found[0].p_holm)
    assert not found[0].differ
    assert found[0].mcnemar is not None
    assert found[0].mcnemar < 0.05  # of these two models


def test_predictions_are_those_of_the_last_phase(tmp_path: Path) -> None:
    write_cells(tmp_path, SKILLS, phases=("pretrain", "finetune"))
    stored = _read(tmp_path)
    assert compare(stored, "pretrain") == []
    assert len(compare(stored, "finetune")) == 12


def test_a_task_without_labels_on_test_is_compared_on_dev(tmp_path: Path) -> None:
    write_cells(tmp_path, SKILLS, unlabelled=("sts",))
    found = compare(_read(tmp_path), "pretrain")
    assert {(each.task, each.split) for each in found} == {
        ("sst", "test"), ("quora", "test"), ("sts", "dev"), ("mean", "dev"),
    }  # fmt: skip


def test_the_order_over_seeds_on_request(tmp_path: Path) -> None:
    write_cells(tmp_path, SKILLS, range(6))
    found = compare(_read(tmp_path), "pretrain", aso=True)
    assert _pair(found, "sst", "bad", "good").aso == 0
    assert 0 < (_pair(found, "sst", "good", "same").aso or 0) <= 1


def _verdict(a: str, b: str, differ: bool) -> Verdict:
    return Verdict("p", "t", "test", a, b, Difference(0, 0, 0, 0, 0), 0.01 if differ else 0.5, None)


def test_groups_are_the_largest_that_hold_no_difference() -> None:
    heads = ["a", "b", "c", "d"]
    pairs = [(x, y) for i, x in enumerate(heads) for y in heads[i + 1 :]]
    chain = [_verdict(x, y, {x, y} in ({"a", "c"}, {"a", "d"}, {"b", "d"})) for x, y in pairs]
    assert groups(chain, heads) == (("a", "b"), ("b", "c"), ("c", "d"))
    assert groups([_verdict(x, y, False) for x, y in pairs], heads) == (tuple(heads),)
    assert groups([_verdict(x, y, True) for x, y in pairs], heads) == (("a",), ("b",), ("c",), ("d",))
    assert groups([], ["a"]) == (("a",),)
