"""`benchkit compare`: pairs of cells, what may differ, conditions and exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.cli import Call, assert_one_line, caller
from helpers.runs import run

from benchkit.analysis.compare import Comparison, compare, judge, parse
from benchkit.analysis.results import read_runs
from benchkit.core.errors import UserError


@pytest.fixture
def benchkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("before")
    run(out, "baseline,recurrent", seeds=2)
    return out


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with another dropout in one head, and a seed more."""
    out = tmp_path_factory.mktemp("after")
    run(out, "baseline,recurrent", seeds=3, settings={"baseline.dropout": 0.6})
    return out


def changed(run_folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a run, each record changed."""
    shutil.copytree(run_folder, to)
    for file in to.glob("cells/*/record.json"):
        record = json.loads(file.read_text())
        change(record)
        file.write_text(json.dumps(record))
    return to


def measured(a: Path, b: Path, **options: Any) -> Comparison:
    first, second = (read_runs([folder], log=print) for folder in (a, b))
    return compare(first, second, **options)


def test_a_condition_is_read() -> None:
    each = parse(" cnn:sst.accuracy <= -1.5 ")
    assert (each.head, each.name, each.sign, each.limit, each.percent) == ("cnn", "sst.accuracy", "<=", -1.5, False)
    assert parse("speed.train<-5%").percent
    assert parse("token-cnn @ b:mean.score>.5").head == "token-cnn @ b"
    assert [parse(f"a.b{sign}1").holds(1.0) for sign in ("<", "<=", ">", ">=")] == [False, True, False, True]
    assert [parse(f"a.b{sign}1").holds(0.5) for sign in ("<", "<=", ">", ">=")] == [True, True, False, False]


@pytest.mark.parametrize(
    "text", ["", "sst.accuracy", "sst<1", "sst.accuracy=1", "sst.accuracy<", "a.b<1 point", "a.b<1e"]
)
def test_what_is_no_condition_is_told_the_grammar(text: str, benchkit: Call, tmp_path: Path) -> None:
    done = benchkit("compare", tmp_path, tmp_path, "--fail-if", text)
    assert_one_line(done, "TASK.METRIC<POINTS", "speed.train<-5%", repr(text))


def test_the_change_is_that_of_the_records_in_points(before: Path, after: Path) -> None:
    found = measured(before, after)
    assert {head: [a.seed for a, _ in pairs] for head, pairs in found.pairs.items()} == {
        "baseline": [0, 1],
        "recurrent": [0, 1],
    }
    pairs = found.pairs["baseline"]
    scores = [
        [next(s.value for s in each.phases[-1].scores if (s.task, s.split) == ("sst", "test")) for each in pair]
        for pair in pairs
    ]
    measure = found.of("baseline", "sst.accuracy")
    assert measure is not None
    assert measure.change == pytest.approx(100 * sum(b - a for a, b in scores) / len(scores))
    assert measure.low <= measure.change <= measure.high
    assert "Only in the second run: baseline, seed 2." in found.notes
    assert found.differences["head"] == ["head.config.dropout: 0.3 → 0.6"]


def test_an_unchanged_head_has_not_changed(before: Path, after: Path) -> None:
    measure = measured(before, after).of("recurrent", "mean.score")
    assert measure is not None
    assert (measure.change, measure.low, measure.high) == (0, 0, 0)


def test_a_drop_is_exit_code_1_and_none_is_0(before: Path, after: Path, benchkit: Call) -> None:
    measure = measured(before, after).of("baseline", "sts.pearson")
    assert measure is not None
    below, above = f"baseline:sts.pearson<{measure.change - 1:.2f}", f"baseline:sts.pearson<{measure.change + 1:.2f}"
    passed = benchkit("compare", before, after, "--fail-if", below)
    assert passed.returncode == 0, passed.stderr
    assert f"✓ {below}: baseline" in passed.stdout
    done = benchkit("compare", before, after, "--fail-if", below, "--fail-if", above)
    assert done.returncode == 1
    assert f"✗ {above}: baseline" in done.stdout
    assert benchkit("compare", before, after).returncode == 0


def test_sure_asks_it_of_the_whole_interval(before: Path, after: Path) -> None:
    found = measured(before, after)
    measure = found.of("baseline", "sst.accuracy")
    assert measure is not None
    assert measure.low < measure.high
    condition = parse(f"baseline:sst.accuracy<{(measure.change + measure.high) / 2}")
    assert [judge(found, [condition], sure=sure)[0].holds for sure in (False, True)] == [True, False]


def test_a_slower_run_is_told_by_its_ratio(before: Path, tmp_path: Path, benchkit: Call) -> None:
    def slow(record: dict[str, Any]) -> None:
        for phase in record["phases"]:
            phase["train_seconds"] *= 2

    slower = changed(before, tmp_path / "slower", slow)
    measure = measured(before, slower).of("recurrent", "speed.train")
    assert measure is not None
    assert (measure.change, measure.low, measure.high) == pytest.approx((-50, -50, -50))
    assert benchkit("compare", before, slower, "--fail-if", "speed.train<-5%").returncode == 1
    assert benchkit("compare", before, slower, "--fail-if", "speed.eval<-5%").returncode == 0


def test_a_lost_cell_is_a_regression(before: Path, tmp_path: Path, benchkit: Call) -> None:
    def fail(record: dict[str, Any]) -> None:
        if record["head"] == "recurrent":
            record.update(status="failed", error="out of memory", phases=[])

    done = benchkit("compare", before, changed(before, tmp_path / "b", fail), "--fail-if", "sst.accuracy<-5")
    assert done.returncode == 1
    assert "✗ sst.accuracy<-5: recurrent failed with seeds 0, 1, no number to compare" in done.stdout
    assert "✓ sst.accuracy<-5: baseline" in done.stdout
    assert "No number in the second run: recurrent seed 0, failed: out of memory" in done.stdout


@pytest.mark.parametrize(
    ("kind", "part", "field", "value"),
    [
        ("protocol", "protocol", "pooling", "cls"),
        ("machine", "execution", "threads", 7),
        ("data", "data", "sst", {"train": "0", "dev": "1", "test": "2"}),
    ],
)
def test_what_differs_must_be_meant(
    kind: str, part: str, field: str, value: Any, before: Path, tmp_path: Path, benchkit: Call
) -> None:
    other = changed(before, tmp_path / "b", lambda record: record["identity"][part].update({field: value}))
    assert_one_line(benchkit("compare", before, other), f"differ in {kind}", field, f"--across {kind}")
    done = benchkit("compare", before, other, "--across", kind)
    assert done.returncode == 0, done.stderr
    assert f"Not the same ({kind}): " in done.stdout


def test_another_encoder_and_another_processor(before: Path, tmp_path: Path, benchkit: Call) -> None:
    def move(record: dict[str, Any]) -> None:
        record["identity"]["encoder"] = "f" * 64
        record["environment"]["processor"] = "an abacus"

    other = changed(before, tmp_path / "b", move)
    assert_one_line(benchkit("compare", before, other, "--across", "encoder"), "machine", "an abacus")
    assert_one_line(benchkit("compare", before, other, "--across", "machine"), "encoder", "ffffffffffff")
    assert benchkit("compare", before, other, "--across", "encoder", "--across", "machine").returncode == 0


def test_other_examples_are_compared_seed_by_seed(before: Path, tmp_path: Path) -> None:
    run(tmp_path, "baseline", seeds=2, settings={"subsample_seed": 1})
    with pytest.raises(UserError, match="differ in data"):
        measured(before, tmp_path)
    found = measured(before, tmp_path, across=("data", "protocol"))
    measure = found.of("baseline", "sst.accuracy")
    assert measure is not None
    assert measure.change == pytest.approx(100 * (measure.b - measure.a))
    assert measure.low < measure.change < measure.high


def test_names_that_are_not_there(before: Path, benchkit: Call, tmp_path: Path) -> None:
    def refused(condition: str) -> Any:
        return benchkit("compare", before, before, "--fail-if", condition)

    assert_one_line(refused("qora.accuracy<-1"), "unknown quantity 'qora.accuracy'", "did you mean 'quora.accuracy'")
    assert_one_line(refused("cnn:sst.accuracy<-1"), "unknown head 'cnn'", "recurrent")
    assert_one_line(refused("sst.accuracy<-1%"), "in points", "leave out the %")
    assert_one_line(refused("speed.train<-5"), "in per cent", "write -5%")
    assert_one_line(benchkit("compare", before, tmp_path / "none"), "no folder")
    other = changed(before, tmp_path / "b", lambda record: record.update(head="other"))
    assert_one_line(benchkit("compare", before, other), "no cell", "baseline with seeds 0, 1", "other")
