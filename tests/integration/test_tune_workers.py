"""Several workers on one study, some killed with -9: exactly N finished trials, none twice, none left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from helpers.tuning import FLAGS, open_search, request

from benchkit.core.errors import UserError
from benchkit.tuning.search import Tuning
from benchkit.tuning.storage import open_storage
from benchkit.tuning.study import Study, Trial, load, read_config

TRIALS = 16
CALM_RATE = "pretrain.learning_rate=1e-4"  # no trial diverges
CALM = ["--search", "head", "--set", CALM_RATE, "--set", "pretrain.epochs=8", "--sampler", "random"]
CALM += ["--pruner", "none", "--final-seeds", "0"]


def start(out: Path, storage: str) -> subprocess.Popen[str]:
    """A search of two workers."""
    options = ["--trials", str(TRIALS), "--jobs", "2", "--storage", storage, "--out", str(out), "--device", "cpu"]
    command = [sys.executable, "-m", "benchkit", "tune", "--head", "baseline", *FLAGS, *options, *CALM]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def children(process: subprocess.Popen[str]) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def kill_a_worker(process: subprocess.Popen[str], study: Study) -> int:
    """Kill -9 the workers of one search as soon as one of their trials runs; the number of that trial."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        workers = children(process)
        running = [trial for trial in study.trials() if trial.state == "RUNNING" and trial.worker]
        if workers and running:
            process.kill()  # the workers go with it
            process.communicate()
            return running[0].number
        time.sleep(0.05)
    raise AssertionError("no trial ran")


def check_four_workers(out: Path, storage: str) -> None:
    """Two commands with two workers each; the first is killed in the middle of a trial."""
    first = start(out, storage)
    wait_for(lambda: has_study(storage))
    opened = open_storage(storage)
    study = Study(read_config(opened, "baseline"), opened)
    number = kill_a_worker(first, study)
    second = start(out, storage)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    trials = study.trials()
    finished = [trial for trial in trials if trial.finished]
    assert len(finished) == TRIALS
    assert len({json.dumps(dict(trial.params)) for trial in finished}) == TRIALS
    assert not [trial for trial in trials if trial.state in ("RUNNING", "WAITING")]
    lost = trials[number]
    if lost.state == "FAIL":  # else it ended just before it could be killed
        assert lost.reason == "its worker was killed or lost"
        assert lost.params in [trial.params for trial in trials if trial.attempt == 2]
    assert len({trial.worker for trial in trials[-6:]}) == 2  # both took part
    # Plain Optuna reads it, as optuna-dashboard does.
    found = optuna.load_study(study_name="baseline", storage=opened.optuna)
    assert found.best_value == max(trial.values[0] for trial in finished)
    opened.close()


def has_study(storage: str) -> bool:
    try:
        with closing(open_storage(storage, create=False)) as opened:
            return bool(read_config(opened, "baseline"))
    except UserError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_four_workers_on_a_journal(tmp_path: Path) -> None:
    check_four_workers(tmp_path, f"journal:{tmp_path / 'studies.journal'}")


def test_a_trial_whose_worker_keeps_dying_is_given_up(tmp_path: Path) -> None:
    """On SQLite: trials that were handed out to workers which are gone are tried again, but not for ever."""
    tuning, _ = open_search(request(tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}", trials=2))
    config, storage = tuning.studies[0], tuning.storage
    other = Study(config, storage)
    for attempt in (1, 2, 3):
        study = Study(config, storage, f"worker-{attempt}")
        with study.working():
            trial = study.claim()
            assert not isinstance(trial, str)
            assert trial.params == config.space.default()
            assert other.fail_lost() == []  # it is alive
        assert other.fail_lost() == [attempt - 1]
        late = Trial(trial.number, "COMPLETE", (1.0,))
        assert not study.finish(trial, late)  # too late: the trial is another's now
    assert [trial.state for trial in other.trials()] == ["FAIL"] * 3
    assert load("baseline", storage).user_attrs["benchkit"]["encoder"] == "embedded"
    tuning.close()


@pytest.mark.parametrize("scheme", ["journal:", "sqlite:///"])
def test_exactly_as_many_trials_as_were_asked_for(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}{tmp_path / 'studies'}"
    workers: set[str] = set()
    for trials, jobs in ((5, 2), (6, 3)):
        wanted = request(tmp_path / "out", trials=trials, storage=url, search=("head",), settings=(CALM_RATE,))
        tuning, _ = open_search(replace(wanted, run=replace(wanted.run, jobs=jobs)))
        found = tuning.search(tuning.studies[0], lambda event: None, lambda: False)
        tuning.close()
        assert len(found.trials) == trials
        assert all(trial.finished for trial in found.trials)
        workers = workers or {trial.worker for trial in found.trials}
    assert len(workers) == 2, "all took part"


def open_endless(out: Path) -> Tuning:
    return open_search(request(out, trials=50, search=("head",), settings=(CALM_RATE,)))[0]


def test_the_first_ctrl_c_finishes_the_running_trial(tmp_path: Path) -> None:
    tuning = open_endless(tmp_path)
    begun: list[int] = []

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "begin":
            begun.append(event["number"])

    found = tuning.search(tuning.studies[0], emit, lambda: bool(begun))
    assert [trial.state for trial in found.trials] == ["COMPLETE"]
    tuning.close()


def test_the_second_ctrl_c_queues_it_again(tmp_path: Path) -> None:
    tuning = open_endless(tmp_path)

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["number"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.search(tuning.studies[0], emit, lambda: False)
    states = [trial.state.name for trial in load("baseline", tuning.storage).trials]
    assert states == ["COMPLETE", "FAIL", "WAITING"]
    tuning.close()


@pytest.mark.slow
def test_ctrl_c_ends_after_the_running_trials_and_the_same_command_goes_on(tmp_path: Path) -> None:
    flags = [*FLAGS, "--jobs", "2", "--trials", "500", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchkit", "tune", "--head", "baseline", *flags],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/500]"):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    states = [trial.state for trial in load("baseline", open_storage(f"journal:{tmp_path / 'studies.journal'}")).trials]
    assert "RUNNING" not in [str(state) for state in states]


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[str]:
    """The URL of a private server, on a free port of this machine; Debian's package, any user but root."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'benchkit[postgres]'")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "none")]
    if not programs[-1].exists():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    data, port, run = Path("/tmp") / f"benchkit-pg-{os.getpid()}", 20_000 + os.getpid() % 20_000, _unprivileged()
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, "postgres")
    bin_folder = programs[-1].parent
    try:
        made: list[str | Path] = [bin_folder / "initdb", "-D", data, "-A", "trust", "-U", "tuner", "--no-sync"]
        subprocess.run([*run, *made], check=True, capture_output=True, cwd="/tmp")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c fsync=off"
        begin: list[str | Path] = [bin_folder / "pg_ctl", "-D", data, "-o", options, "-l", data / "log", "-w", "start"]
        subprocess.run([*run, *begin], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp")
        yield f"postgresql+psycopg://tuner@127.0.0.1:{port}/postgres"
    finally:
        end: list[str | Path] = [bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
        subprocess.run([*run, *end], check=False, capture_output=True, cwd="/tmp")
        shutil.rmtree(data, ignore_errors=True)


def _unprivileged() -> list[str | Path]:
    """PostgreSQL refuses to be run by root."""
    if os.geteuid():
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@pytest.mark.slow
def test_four_workers_on_postgresql(tmp_path: Path, postgres: str) -> None:
    check_four_workers(tmp_path, postgres)
