"""`benchkit repro`: the report's numbers beside a run's, what chance allows, and what is not the report's."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cli import Call, assert_one_line, caller
from helpers.runs import SIZES, run
from scipy import stats

from benchkit.analysis.baselines import Agreement, agreements, deviations, published
from benchkit.analysis.results import Stored, read_runs
from benchkit.analysis.statistics import Spread
from benchkit.core.plugins import load_plugins


@pytest.fixture
def benchkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(out, "baseline", seeds=2, settings={"baseline.dropout": 0.1})
    return out


def read(folder: Path) -> Stored:
    return read_runs([folder], log=print)


def find(rows: list[Agreement], *key: str) -> Agreement:
    return next(row for row in rows if (row.head, row.task, row.split) == key)


def test_the_numbers_are_the_report_s() -> None:
    """As its table of results has them: test / train, of baseline, recurrent, cnn."""
    text = {
        "quora": "0.727 / 0.985 | 0.722 / 0.854 | 0.735 / 0.928",
        "sts": "0.304 / 0.795 | 0.341 / 0.576 | 0.457 / 0.803",
        "sst": "0.469 / 0.614 | 0.377 / 0.659 | 0.381 / 0.639",
    }
    report = published()
    for task, line in text.items():
        for head, cell in zip(("baseline", "recurrent", "cnn"), line.split(" | "), strict=True):
            numbers = report.numbers[head][task]
            assert f"{numbers['test']:.3f} / {numbers['train']:.3f}" == cell
    assert "Jack Michaels" in report.source


def test_each_number_is_the_mean_of_the_records(folder: Path) -> None:
    stored = read(folder)
    rows = agreements(stored, published())
    assert len(rows) == 3 * 2
    row = find(rows, "baseline", "quora", "train")
    scores = [
        score.value
        for record in stored.records
        for score in record.phases[-1].scores
        if (score.task, score.split) == ("quora", "train")
    ]
    assert row.here.mean == pytest.approx(float(np.mean(scores)))
    assert (row.here.n, row.there) == (2, 0.985)
    assert row.difference == pytest.approx(float(np.mean(scores)) - 0.985)
    assert row.verdict == "lower than chance allows" or abs(row.difference) <= row.allowed


def test_on_the_report_s_examples_only_the_seeds_are_chance(folder: Path, tmp_path: Path) -> None:
    """Then what is allowed is the usual prediction interval of one more run."""
    shutil.copytree(folder, tmp_path / "run")
    for file in tmp_path.glob("run/cells/*/record.json"):
        record = json.loads(file.read_text())
        record["data"]["splits"]["sst"]["test"]["rows"] = 2211  # a header counted
        file.write_text(json.dumps(record))
    row = find(agreements(read(tmp_path / "run"), published()), "baseline", "sst", "test")
    assert row.allowed == pytest.approx(stats.t.ppf(0.975, 1) * row.here.std * math.sqrt(1 + 1 / 2))


def test_a_run_of_the_report_itself_agrees_19_times_out_of_20() -> None:
    """By simulation: scores that vary with seeds and examples, ours on other examples than the report's."""
    from benchkit.analysis.baselines import _allowed

    random = np.random.default_rng(0)
    seeds, ours, theirs, truth, spread = 3, 1500, 2210, 0.4, 0.012
    agree = 0
    for _ in range(4000):
        there = random.binomial(theirs, truth) / theirs + random.normal(0, spread)
        runs = random.binomial(ours, truth) / ours + random.normal(0, spread, seeds)
        here = Spread(seeds, float(runs.mean()), float(runs.std(ddof=1)))
        agree += abs(here.mean - there) <= _allowed("accuracy", here, there, ours, theirs)
    assert 0.935 <= agree / 4000 <= 0.985


def test_verdicts_in_words() -> None:
    def verdict(here: float, allowed: float, seeds: int = 3) -> str:
        return Agreement("cnn", "sst", "accuracy", "test", 0.5, Spread(seeds, here, 0.01), allowed).verdict

    assert verdict(0.52, 0.03) == verdict(0.48, 0.03) == "agrees"
    assert verdict(0.54, 0.03) == "higher than chance allows"
    assert verdict(0.46, 0.03) == "lower than chance allows"
    assert verdict(0.54, 0.30) == "agrees, loosely"
    assert verdict(0.54, math.nan, 1) == "one seed: cannot tell"
    assert verdict(math.nan, math.nan, 0) == "no number here"


def test_what_is_not_the_report_s_is_told(folder: Path) -> None:
    lines = list(deviations(read(folder), published(), load_plugins()))
    text = "\n".join(lines)
    assert "The encoder is demo, the report's is bert-base-uncased: hidden_size=128" in text
    assert "The data of sst are not the report's: train 64 rows, not 8,544" in text
    assert "not that of the preset paper: phases pretrain,finetune → pretrain; pooling cls → mean" in text
    assert "pretrain.epochs 10 → 2" in text
    assert "after pretrain and finetune; these are after pretrain." in text
    assert "The head baseline is not as in the report: dropout 0.3 → 0.1." in text


def test_reading_a_run(folder: Path, benchkit: Call) -> None:
    done = benchkit("repro", folder)
    assert done.returncode == 0, done.stderr
    assert "quora · accuracy" in done.stdout
    assert "6 numbers: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_running_it(tmp_path: Path, benchkit: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {**SIZES, "pretrain.epochs": 1}
    flags: list[Any] = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = ("repro", "--data", "demo", "--encoder", "demo", "--seeds", 1, "--phases", "pretrain", *flags)
    dry = benchkit(*command, "--dry-run")
    assert "3 cells in results/runs/paper-demo" in dry.stdout
    assert "report" not in dry.stdout
    done = benchkit(*command)
    assert done.returncode == 0, done.stderr
    assert "long work" in done.stderr
    assert "18 numbers: " in done.stdout
    assert "pretrain.epochs 10 → 1" in " ".join(done.stdout.split())


def test_nothing_to_set_beside_is_one_line(benchkit: Call, tmp_path: Path, folder: Path) -> None:
    assert_one_line(benchkit("repro"), "names no encoder", "--encoder")
    assert_one_line(benchkit("repro", folder, "--seeds", 3), "leave out --seeds")
    assert_one_line(benchkit("repro", tmp_path), "no finished cell")
    run(tmp_path, "siamese", settings={"pretrain.epochs": 1})
    assert_one_line(benchkit("repro", tmp_path), "nothing to compare with the report", "siamese")
