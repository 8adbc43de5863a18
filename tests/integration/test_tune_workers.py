"""Four workers on one study, one of them killed with -9: exactly N finished trials, none twice, none left running."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from helpers.tuning import FLAGS, open_search, request

from benchkit.tuning.objective import Job
from benchkit.tuning.storage import open_storage
from benchkit.tuning.trials import Claims, load, reap_all

TRIALS = 16


def start(job: Job) -> subprocess.Popen[str]:
    """A worker as `--jobs` starts them."""
    command = [sys.executable, "-m", "benchkit.tuning.worker"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdin is not None
    worker.stdin.write(job.to_json() + "\n")
    worker.stdin.flush()
    return worker


def kill_in_a_trial(worker: subprocess.Popen[str]) -> int:
    """Kill -9 at the first event of a trial; its number."""
    assert worker.stdout is not None
    for line in worker.stdout:
        event = json.loads(line)
        if event["event"] == "begin":
            worker.kill()
            worker.communicate()
            return int(event["number"])
    raise AssertionError("the worker ended before it had a trial")


def check_four_workers(out: Path, storage: str) -> None:
    tuning, _ = open_search(
        request(
            out,
            storage=storage,
            trials=TRIALS,
            settings=("pretrain.epochs=8", "pretrain.learning_rate=1e-4"),
            sampler="random",
            search=("head",),
        )
    )
    job = tuning.jobs[0].job
    workers = [start(job) for _ in range(4)]
    number = kill_in_a_trial(workers[0])
    for worker in workers[1:]:
        assert worker.stdout is not None
        worker.stdout.read()  # to its end, with stdin open: a worker whose stdin ends stops
        assert worker.wait() == 0
        worker.communicate()
    trials = Claims(job, tuning.storage).trials()
    finished = [trial for trial in trials if trial.finished]
    assert len(finished) == TRIALS
    assert len({json.dumps(dict(trial.params)) for trial in finished}) == TRIALS
    assert not [trial for trial in trials if trial.state in ("RUNNING", "WAITING")]
    lost = trials[number]
    assert (lost.state, lost.reason) == ("FAIL", "its worker was killed or lost")
    (retried,) = [trial for trial in trials if trial.attempt == 2]
    assert retried.params == lost.params
    assert len({trial.worker for trial in finished}) == 3  # all others took part
    # Plain Optuna reads it, as optuna-dashboard does.
    study = optuna.load_study(study_name="baseline", storage=tuning.storage.optuna)
    assert study.best_value == max(trial.values[0] for trial in finished)
    tuning.close()


@pytest.mark.slow
def test_four_workers_on_a_journal(tmp_path: Path) -> None:
    check_four_workers(tmp_path, f"journal:{tmp_path / 'studies.journal'}")


def test_a_trial_whose_worker_keeps_dying_is_given_up(tmp_path: Path) -> None:
    """On SQLite: trials that were handed out to workers which are gone are tried again, but not for ever."""
    tuning, _ = open_search(request(tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}", trials=2))
    job, storage = tuning.jobs[0].job, tuning.storage
    for attempt in (1, 2, 3):
        claims = Claims(job, storage)
        with claims.working():
            trial = claims.claim()
            assert not isinstance(trial, str)
            assert trial.params == job.space.default()
            assert reap_all(job, storage) == []  # it is alive
        assert reap_all(job, storage) == [attempt - 1]
        assert not claims.finish(trial, "COMPLETE", [1.0], {"scores": {}})  # too late: the trial is another's now
    trials = Claims(job, storage).trials()
    assert [trial.state for trial in trials] == ["FAIL"] * 3
    assert load("baseline", storage).user_attrs["benchkit"]["encoder"] == "embedded"
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
def test_workers_that_take_turns_share_a_session_of_postgresql(tmp_path: Path, postgres: str) -> None:
    """The server gives a session the lock that it holds: a trial of the next worker is not lost for that."""
    wanted = request(tmp_path, storage=postgres, trials=6, search=("head",), settings=("pretrain.learning_rate=1e-4",))
    tuning, _ = open_search(replace(wanted, run=replace(wanted.run, at_once=3)))
    found = tuning.search(tuning.jobs[0], lambda event: None, lambda: False)
    assert [trial.state for trial in found.trials] == ["COMPLETE"] * 6
    assert len({trial.worker for trial in found.trials}) == 3
    tuning.close()


@pytest.mark.slow
def test_four_workers_on_postgresql(tmp_path: Path, postgres: str) -> None:
    check_four_workers(tmp_path, postgres)
