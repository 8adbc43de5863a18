"""`kill -9` at random moments, and the same command again, end with the numbers of a run that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

KILLS = 6  # half of them with two jobs; `tests/by_hand/kill.py` sends hundreds
SIZES = [f"{task}.{split}_size={size}" for task in ("sst", "quora", "sts")
         for split, size in (("train", 64), ("dev", 40), ("test", 40))]  # fmt: skip
FIELDS = [*SIZES, "pretrain.epochs=5", "finetune.epochs=3", "pretrain.batch_size=8", "finetune.batch_size=8"]


def start(out: Path, cache: Path, jobs: int) -> subprocess.Popen[str]:
    settings = [part for field in FIELDS for part in ("--set", field)]
    command = [sys.executable, "-m", "benchkit", "run", "--heads", "baseline", "--seeds", "2"]
    return subprocess.Popen(
        [*command, "--out", str(out), "--jobs", str(jobs), *settings],
        env={**os.environ, "BENCHKIT_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts its background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for an end that must be a good one; its stderr."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return errors


def numbers(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "summary.csv").drop(columns="train_seconds")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, float]:
    """The numbers of a run that was left alone, in this process, and the seconds it took."""
    folder, started = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    finish(start(folder / "out", folder / "cache", 1))
    return numbers(folder / "out"), time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_kills_and_reruns_end_with_the_same_numbers(
    jobs: int, tmp_path: Path, undisturbed: tuple[pd.DataFrame, float]
) -> None:
    expected, seconds = undisturbed
    draw = random.Random(jobs)
    for _ in range(KILLS // 2):
        process = start(tmp_path / "b", tmp_path / "cache-b", jobs)
        time.sleep(draw.uniform(0.3, 0.8) * seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(tmp_path / "b", tmp_path / "cache-b", jobs))
    pd.testing.assert_frame_equal(numbers(tmp_path / "b"), expected, check_exact=True)
    leftover = [path for path in (tmp_path / "b").rglob("*") if path.name.endswith((".tmp", "checkpoint.pt"))]
    assert not leftover


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_two_runs_into_one_folder_do_no_harm(
    jobs: int, tmp_path: Path, undisturbed: tuple[pd.DataFrame, float]
) -> None:
    both = [start(tmp_path / "out", tmp_path / "cache", jobs) for _ in range(2)]
    for process in both:
        finish(process)
    pd.testing.assert_frame_equal(numbers(tmp_path / "out"), undisturbed[0], check_exact=True)


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_code_130_and_the_run_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path / "out", tmp_path / "cache", 1)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/2]"):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    again = finish(start(tmp_path / "out", tmp_path / "cache", 1))
    assert "finished already and are reused" in again


def test_ctrl_c_in_a_destructor_is_not_lost() -> None:
    """Python would print its traceback and go on."""
    code = """if True:
        import signal, sys, time
        from benchkit import cli

        class Dying:
            def __del__(self):
                signal.raise_signal(signal.SIGINT)

        @cli.cli.command()
        def lose():
            Dying()
            for _ in range(100):
                time.sleep(0.1)

        sys.argv = ["benchkit", "lose"]
        cli.main()
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.split() == ["benchkit:", "interrupted"]
