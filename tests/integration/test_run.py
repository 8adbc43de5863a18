"""`benchkit run`, end to end on the demo: small sizes, the real trainer, encoder, stores and tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.cli import caller

import benchkit
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.experiment.config import Request
from benchkit.experiment.estimate import describe
from benchkit.experiment.session import Session

SMALL = {
    "sst.train_size": 96,
    "quora.train_size": 96,
    "sts.train_size": 96,
    "sst.dev_size": 60,
    "quora.dev_size": 60,
    "sts.dev_size": 60,
    "sst.test_size": 60,
    "quora.test_size": 60,
    "sts.test_size": 60,
    "pretrain.epochs": 2,
    "finetune.epochs": 1,
    "layers": "-1",
}
TIMES = ["train_seconds"]


def small_run(out: Path, **options: object) -> benchkit.Result:
    settings = {**SMALL, **dict(options.pop("settings", {}))}  # type: ignore[call-overload]
    heads = options.pop("heads", ["baseline"])
    options.setdefault("encoder", "demo")
    return benchkit.run(heads, seeds=options.pop("seeds", 1), out=out, settings=settings, **options)  # type: ignore[arg-type]


def test_files_and_their_columns(tmp_path: Path) -> None:
    result = small_run(tmp_path, heads=["baseline", "cnn"], seeds=2)
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert list(summary.columns) == [
        *("head", "task", "phase", "split", "metric", "mean", "std", "ci_low", "ci_high"),
        *("n_seeds", "head_params", "train_seconds", "error"),
    ]
    assert set(summary["phase"].dropna()) == {"pretrain", "finetune"}
    assert {"majority class", "mean score", "baseline", "cnn"} == set(summary["head"])
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert len(curves) == 2 * 2 * (2 + 1) * 3 * 2  # heads, seeds, epochs of both phases, tasks, train and dev
    assert (tmp_path / "table.md").read_text().count("±") > 10
    for record in result.cells:
        folder = tmp_path / "cells" / record.key
        stored = json.loads((folder / "record.json").read_text())
        assert stored["identity"]["seed"] == record.seed
        assert stored["environment"]["packages"]["torch"]
        predictions = pd.read_parquet(folder / "predictions.parquet")
        assert list(predictions.columns) == ["task", "split", "id", "label", "prediction", "score"]
        assert len(predictions) == 2 * 3 * 60  # dev and test of three tasks
        assert not (folder / "checkpoint.pt").exists()


def test_accuracy_in_the_table_is_that_of_the_stored_predictions(tmp_path: Path) -> None:
    (record,) = small_run(tmp_path).cells
    predictions = pd.read_parquet(tmp_path / "cells" / record.key / "predictions.parquet")
    for score in record.phases[-1].scores:
        if score.split != "train":
            rows = predictions[(predictions["task"] == score.task) & (predictions["split"] == score.split)]
            if score.metric == "accuracy":
                again = (rows["label"] == rows["prediction"]).mean()
            else:
                again = rows["label"].corr(rows["prediction"])
            assert score.value == pytest.approx(again, abs=1e-6)


def test_the_same_twice_is_the_same_but_for_times(tmp_path: Path) -> None:
    small_run(tmp_path / "a", heads=["baseline", "recurrent", "cnn"])
    small_run(tmp_path / "b", heads=["baseline", "recurrent", "cnn"])
    a, b = (pd.read_csv(tmp_path / name / "summary.csv").drop(columns=TIMES) for name in "ab")
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_worker_processes_give_the_same_numbers(tmp_path: Path) -> None:
    small_run(tmp_path / "a", heads=["baseline", "cnn"])
    small_run(tmp_path / "b", heads=["baseline", "cnn"], jobs=2)
    a, b = (pd.read_csv(tmp_path / name / "summary.csv").drop(columns=TIMES) for name in "ab")
    pd.testing.assert_frame_equal(a, b, check_exact=True)


def test_finished_cells_are_reused_and_a_changed_field_is_not(tmp_path: Path) -> None:
    first = small_run(tmp_path)
    file = tmp_path / "cells" / first.cells[0].key / "record.json"
    before = file.stat().st_mtime_ns
    assert small_run(tmp_path).cells == first.cells
    assert file.stat().st_mtime_ns == before
    changed = small_run(tmp_path, settings={"baseline.dropout": 0.2})
    assert changed.cells[0].key != first.cells[0].key


def test_heads_with_one_seed_see_the_same_batches(tmp_path: Path) -> None:
    result = small_run(tmp_path, heads=["baseline", "recurrent", "cnn"], seeds=[0, 1])
    hashes = {(cell.seed, tuple(phase.order_hash for phase in cell.phases)) for cell in result.cells}
    assert len(hashes) == 2  # one a seed, whatever the head


def test_frozen_features_stored_or_encoded_anew_train_alike(tmp_path: Path) -> None:
    """Stated tolerance: losses within 1e-4 of each other; the encoder sees other batches, so sums round otherwise."""
    cached = small_run(tmp_path / "a", phases=["pretrain"])
    live = small_run(tmp_path / "b", phases=["pretrain"], feature_cache=False)
    for one, other in zip(cached.cells[0].phases[0].curve, live.cells[0].phases[0].curve, strict=True):
        assert (one.epoch, one.task, one.split) == (other.epoch, other.task, other.split)
        assert one.loss == pytest.approx(other.loss, abs=1e-4)


def test_fine_tuning_leaves_the_shared_encoder_as_it_was(tmp_path: Path) -> None:
    together = small_run(tmp_path / "a", heads=["baseline", "cnn"])
    alone = small_run(tmp_path / "b", heads=["cnn"])
    assert together.cells[1].phases[0].scores == alone.cells[0].phases[0].scores
    assert together.cells[1].phases[1].scores == alone.cells[0].phases[1].scores


def test_a_rate_of_ten_diverges_and_is_shown_not_tabulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = small_run(tmp_path, phases=["pretrain"], settings={"pretrain.learning_rate": 10.0})
    (record,) = result.cells
    assert record.status == "diverged"
    assert "pretrain" in record.error
    assert "diverged" in (tmp_path / "table.md").read_text()
    words = ["--heads", "baseline", "--seeds", "1", "--phases", "pretrain", "--encoder", "demo", "--jobs", "1"]
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    done = caller(monkeypatch, capsys)(
        "run", *words, *settings, "--set", "pretrain.learning_rate=10", "--out", tmp_path
    )
    assert "(1 reused)" in done.stdout
    assert done.returncode == 1  # a run without a number is no success
    assert done.stderr.splitlines()[-1].startswith("benchkit: error: no cell has a result: all diverged: pretrain")


def test_joint_pairs_and_every_sampling(tmp_path: Path) -> None:
    for sampling in ("round_robin", "annealed"):
        settings = {"pair_input": "joint", "sampling": sampling, "pretrain.epochs": 1}
        result = small_run(tmp_path, heads=["baseline", "recurrent", "cnn"], settings=settings, phases=["pretrain"])
        assert all(cell.status != "failed" for cell in result.cells), [cell.error for cell in result.cells]


def test_one_task_alone(tmp_path: Path) -> None:
    result = small_run(tmp_path, tasks=["sts"], settings={"sts.loss": "mse"}, phases=["pretrain"])
    assert {score.task for score in result.cells[0].phases[0].scores} == {"sts"}


def test_from_python_an_unknown_head_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'cnn'"):
        small_run(tmp_path, heads=["cmn"])


def test_dry_run_says_what_would_happen_and_does_nothing(tmp_path: Path) -> None:
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "benchkit", "run", "--dry-run", *settings]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert "9 cells" in done.stdout
    assert "estimated time" in done.stdout
    assert not (tmp_path / "results").exists()


def test_an_estimate_leaves_the_encoder_alone_and_counts_rounds_as_steps(tmp_path: Path) -> None:
    settings = tuple(f"{name}={value}" for name, value in SMALL.items())
    seen = {}
    for step in ("task", "round"):
        request = Request(heads=("baseline",), seeds=(0,), settings=(*settings, f"finetune.step={step}"), out=tmp_path)
        session = Session.open(request, load_plugins(), lambda event: None)
        encoder = session.workspace.encoder(session.plan.encoder)
        before = encoder.fingerprint
        assert "estimated time" in list(describe(session))[-1]
        assert encoder.fingerprint == before
        assert not encoder.model.training
        probe: Any = session.workspace.once(("probe", "baseline", "finetune"), lambda: None)
        seen[step] = probe.step
    assert seen["round"] > 1.2 * seen["task"] > 0  # three batches in one step
    assert not any(tmp_path.iterdir())


def test_load_encoder_encodes(tmp_path: Path) -> None:
    vectors = benchkit.load_encoder("demo").encode(["a film", "another, longer film"], pooling="mean")
    assert vectors.shape[0] == 2
    assert vectors.dtype.is_floating_point
