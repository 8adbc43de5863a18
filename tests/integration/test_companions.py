"""Companion runs: trained controls, and single-task baselines."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.cli import Call, assert_one_line, caller
from helpers.runs import flags
from helpers.stores import encoder

from benchkit.analysis.comparisons import compare
from benchkit.analysis.results import read_runs
from benchkit.data import Split
from benchkit.data.splits import shuffle_labels
from benchkit.encoder.checkpoint import untrained
from benchkit.store.cells import CellStore

RUN = ("run", "--heads", "baseline", "--seeds", 1, "--phases", "pretrain", "--jobs", 1, *flags())


@pytest.fixture
def benchkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


def test_labels_are_shuffled_and_nothing_else() -> None:
    labels = np.repeat([0.0, 1.0, 2.0], [50, 30, 20])
    texts = tuple((f"text {row}",) for row in range(100))
    split = Split("topic", "train", tuple(map(str, range(100))), texts, labels, "made here", "0")
    found = shuffle_labels(split, 0)
    assert (found.ids, found.texts) == (split.ids, split.texts)
    assert Counter(found.labels) == Counter(labels)
    assert (found.labels != labels).mean() > 0.4
    assert found.digest() == shuffle_labels(split, 0).digest()
    assert len({each.digest() for each in (split, found, shuffle_labels(split, 1))}) == 3
    assert "labels shuffled" in found.source


def test_an_untrained_encoder_has_the_architecture_alone() -> None:
    own = encoder(seed=5)
    before = own.fingerprint
    random = untrained(own)
    assert random.config == own.config
    assert random.name == f"random:{own.name}"
    assert random.fingerprint == untrained(encoder(seed=6)).fingerprint != own.fingerprint
    assert encoder(seed=5).fingerprint == before == own.fingerprint


def test_controls_and_tasks_alone(benchkit: Call, tmp_path: Path) -> None:
    done = benchkit(*RUN, "--out", tmp_path, "--controls", "--single-task")
    assert done.returncode == 0, done.stderr
    for name in ("(baseline, shuffled", "(baseline, random"):
        assert done.stdout.count(name) == 4  # tasks and their mean
    assert "together − alone" in done.stdout
    assert max(map(len, done.stdout.partition("1 cell (")[0].splitlines()[3:])) <= 100

    folders = [tmp_path, *(tmp_path / "controls").iterdir(), *(tmp_path / "alone").iterdir()]
    keys = [key for folder in folders for key in CellStore(folder / "cells").keys()]  # noqa: SIM118
    assert len(keys) == len(set(keys)) == 1 + 2 + 3
    _is_the_difference(done.stdout, tmp_path)
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert {"baseline", "baseline, shuffled labels", "baseline, random encoder"} <= set(summary["head"])

    stored = read_runs([tmp_path], log=print)
    assert list(stored.heads) == ["baseline"]
    assert list(stored.results.trained_controls) == ["shuffled labels", "random encoder"]
    assert compare(stored, "pretrain") == []  # they are no heads
    shown = benchkit("report", tmp_path).stdout
    assert "(baseline, shuffled" in shown
    assert "Controls named after a head: shuffled: " in shown
    _is_the_difference(shown, tmp_path)
    gains = json.loads(benchkit("report", tmp_path, "--format", "json").stdout)["together_minus_alone"]
    assert [(each["head"], each["task"], each["seeds"]) for each in gains] == [
        ("baseline", task, [0]) for task in ("sst", "quora", "sts")
    ]

    again = benchkit(*RUN, "--out", tmp_path, "--controls", "--single-task", "--dry-run")
    assert again.stdout.count("1 finished, 0 to run") == 6
    key = CellStore(tmp_path / "controls" / "shuffled-labels" / "cells").keys()[0]
    assert "the same request reuses it" in benchkit("explain", key, "--out", tmp_path).stdout


def _is_the_difference(text: str, folder: Path) -> None:
    together, alone = (
        pd.read_csv(each / "summary.csv").set_index(["head", "task", "split"])["mean"]
        for each in (folder, folder / "alone" / "sst")
    )
    line = next(line for line in text.partition("together − alone")[2].splitlines() if line.startswith("baseline"))
    expected = [alone["baseline", "sst", "test"], together["baseline", "sst", "test"]]
    assert [float(word) for word in line.split()[1:3]] == pytest.approx(expected, abs=5e-4)


def test_one_task_is_alone_already(benchkit: Call, tmp_path: Path) -> None:
    done = benchkit(*RUN, "--out", tmp_path, "--tasks", "sst", "--single-task")
    assert_one_line(done, "--single-task", "sst is alone")
    done = benchkit("run", "--from-study", "none", "--controls", "--single-task")
    assert_one_line(done, "leave out --controls, --single-task")
