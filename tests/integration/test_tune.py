"""Searches in one process: blind to test, resumable, repeatable, honest about failures."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.tuning import FLAGS, open_search, request, search

from benchkit.cli import main
from benchkit.core.errors import UserError
from benchkit.experiment.cell import BLIND, Cell
from benchkit.experiment.run_cell import execute, explore
from benchkit.store.cells import CellStore
from benchkit.tuning.report import final_table, front_table, write_search, write_study
from benchkit.tuning.search import run_again
from benchkit.tuning.study import Study, Trial

FAILING = """
from dataclasses import dataclass
from torch import nn
from benchkit import HeadSpec, hookimpl, option
from benchkit.nn.blocks import finish

@dataclass(frozen=True)
class Config:
    kind: str = option("fine", choices=("fine", "hungry", "broken"))

class Head(nn.Module):
    def __init__(self, config, hidden, tasks):
        super().__init__()
        self.kind, self.tasks = config.kind, {task.name: task for task in tasks}
        self.trunk = nn.Identity()
        self.branches = nn.ModuleDict({t.name: nn.Linear(hidden * t.segments, t.out) for t in tasks})

    def forward(self, features, task):
        if self.kind == "hungry":
            raise MemoryError
        if self.kind == "broken":
            raise RuntimeError("no such luck")
        return finish(self.branches[task](features.pooled.flatten(1)), self.tasks[task])

@hookimpl
def benchkit_heads():
    return [HeadSpec("moody", "Fails as it is told to.", Head, Config)]
"""


def drawn(trials: tuple[Trial, ...]) -> list[tuple[int, str, dict[str, object], tuple[float, ...]]]:
    return [(trial.number, trial.state, dict(trial.params), trial.values) for trial in trials]


def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = search(request(tmp_path / "a", trials=6, pruner="median"))
    search(request(tmp_path / "b", trials=2, pruner="median"))
    stopped = search(request(tmp_path / "b", trials=6, pruner="median"))
    assert drawn(whole.trials) == drawn(stopped.trials)
    assert sum(trial.finished for trial in whole.trials) == 6
    assert whole.trials[0].params == whole.config.space.default()
    assert search(request(tmp_path / "b", trials=3, pruner="median")).trials == stopped.trials  # enough already


def test_a_trial_from_another_space_is_one_line(tmp_path: Path) -> None:
    tuning, _ = open_search(request(tmp_path))
    study = Study(tuning.studies[0], tuning.storage, "a")
    with study.working():
        study.claim()
    assert len(study.trials()) == 1
    journal = tmp_path / "studies.journal"
    journal.write_text(journal.read_text().replace('"param_name":"baseline.score"', '"param_name":3'))
    damaged, _ = open_search(request(tmp_path / "other", storage=f"journal:{journal}"))
    with pytest.raises(UserError, match="trial 0 was drawn from another search space"):
        Study(damaged.studies[0], damaged.storage).trials()


def test_a_search_whose_workers_died_finds_what_it_would_have_found(tmp_path: Path) -> None:
    """Of `killed`: one while it trains, one between a trial's making and its being handed out."""
    found = {}
    for name, killed in (("whole", ()), ("cut", (1, 2))):
        tuning, _ = open_search(request(tmp_path / name, sampler="tpe", trials=5))
        config = tuning.studies[0]
        for number in range(5):
            for worker in [f"dead {number}"] * (number in killed) + [f"alive {number}"]:
                study = Study(config, tuning.storage, worker)
                with study.working():
                    trial = study.claim()
                    assert not isinstance(trial, str)
                    if worker == "dead 2":
                        trial.set_user_attr("worker", "")
                    if worker.startswith("alive"):
                        done = Trial(trial.number, "COMPLETE", (len(str(trial.params)) / 1000,))
                        assert study.finish(trial, done)
        trials = Study(config, tuning.storage).trials()
        found[name] = [(trial.params, trial.values) for trial in trials if trial.finished]
        tuning.close()
    assert len(found["whole"]) == 5
    assert found["cut"] == found["whole"]


def test_a_journal_on_a_full_disk_is_one_line_and_goes_on_afterwards(tmp_path: Path) -> None:
    """At any size: also between a study and its config."""
    path = tmp_path / "out" / "studies.journal"
    code = """if True:
        import resource, sys
        sys.path[:0] = sys.argv[2].split(":")
        from pathlib import Path
        from helpers.tuning import open_search, request
        from benchkit.core.errors import UserError
        out, ends = Path(sys.argv[1]), []
        for limit in (10, 150, 1500, resource.RLIM_INFINITY):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                tuning, _ = open_search(request(out, trials=1))
            except UserError as error:
                ends.append(str(error))
                assert (out / "studies.journal").read_bytes()[-1:] in (b"", b"\\n")
        assert len(ends) == 3, ends
        assert all(f"cannot write {out / 'studies.journal'}: File too large" in end for end in ends), ends
        assert [config.name for config in tuning.studies] == ["baseline"]
    """
    tests = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(path.parent), tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_comparison_that_cannot_be_stored_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "final").write_text("where its cells would be")
    command = ["tune", "--head", "baseline", "--trials", "1", "--final-seeds", "1", *FLAGS, "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "benchkit", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("benchkit: error: baseline seed 1: cannot")]
    assert len(lines) == 2, done.stderr
    assert (tmp_path / "baseline" / "best.toml").is_file()


@pytest.mark.slow
def test_the_best_trained_again_in_a_fresh_process_is_the_trial_bit_by_bit(tmp_path: Path) -> None:
    found = search(request(tmp_path, "cnn", trials=3))
    assert found.best is not None
    toml = tmp_path / "cnn" / "best.toml"
    command = [sys.executable, "-m", "benchkit", "run", "--protocol", str(toml), "--seeds", "0,", "--device", "cpu"]
    subprocess.run([*command, "--out", str(tmp_path / "again"), "--jobs", "1"], check=True, capture_output=True)
    (path,) = (tmp_path / "again" / "cells").glob("*/record.json")
    scores = json.loads(path.read_text())["phases"][-1]["scores"]
    assert {each["task"]: each["value"] for each in scores if each["split"] == "dev"} == found.best.scores
    assert sum(found.best.scores.values()) / 3 == found.best.values[0]


def test_no_trial_can_look_at_test(tmp_path: Path) -> None:
    tuning, _ = open_search(request(tmp_path))
    cell, workspace = tuning.studies[0].cell, tuning.session.workspace
    with pytest.raises(ValueError, match="must be blind to test"):
        explore(cell, workspace, lambda state: None)
    blind = cell.trial(cell.config, cell.protocol)
    assert Cell.from_json(blind.to_json()) == blind
    assert blind.key != cell.key
    assert {
        each["split"] for state in explore(blind, workspace, lambda state: None).states for each in state.curve
    } == {
        "train",
        "dev",
    }
    # Even run as a cell that is kept, it leaves no number of test: its rows and labels were never there.
    store = CellStore(tmp_path / "cells")
    record = execute(blind, workspace, store, lambda event: None)
    assert {score.split for score in record.phases[0].scores} == set(BLIND)
    assert set(store.predictions(blind.key)["split"]) == {"dev"}
    search(request(tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("predictions.parquet"))


def test_pruned_trials_are_finished_ones_and_were_reported(tmp_path: Path) -> None:
    found = search(request(tmp_path, trials=12, pruner="median", settings=("pretrain.epochs=6",)))
    pruned = [trial for trial in found.trials if trial.state == "PRUNED"]
    assert pruned
    assert all(0 < len(trial.curve) < 6 and trial.values == (max(trial.curve),) for trial in pruned)
    assert all(len(trial.curve) == 6 for trial in found.trials if trial.state == "COMPLETE")
    assert sum(trial.finished for trial in found.trials) == 12


def test_failed_trials_say_why_and_a_grid_ends(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(FAILING)
    options: dict[str, Any] = {"search": ("head",), "sampler": "grid", "head_files": (tmp_path / "moody.py",)}
    found = search(request(tmp_path, "moody", trials=9, **options))
    reasons = {trial.params["moody.kind"]: (trial.state, trial.reason) for trial in found.trials}
    assert len(found.trials) == 3
    assert reasons["fine"] == ("COMPLETE", "")
    assert reasons["hungry"][0] == reasons["broken"][0] == "FAIL"
    assert "out of memory on cpu with pretrain.batch_size=32" in reasons["hungry"][1]
    assert "RuntimeError: no such luck" in reasons["broken"][1]


def test_a_study_whose_trials_all_diverge_is_given_up(tmp_path: Path) -> None:
    found = search(request(tmp_path, search=("head",), settings=("pretrain.learning_rate=100",), trials=20))
    assert [trial.state for trial in found.trials] == ["FAIL"] * 10
    assert "the last 10 trials failed" in found.problem
    assert "pretrain" in found.trials[0].reason
    assert found.best is None


def test_what_was_changed_starts_a_study_that_says_so(tmp_path: Path) -> None:
    search(request(tmp_path, trials=1))
    changed: tuple[tuple[dict[str, Any], str], ...] = (
        ({"search": ("lr",)}, "search space"),
        ({"settings": ("sst.train_size=40",)}, "data"),
        ({"sampler_seed": 1}, "sampler"),
    )
    for changes, part in changed:
        tuning, lines = open_search(request(tmp_path, trials=1, **changes))
        assert any(part in line and "starting study 'baseline-" in line for line in lines), lines
        again, lines = open_search(request(tmp_path, trials=1, **changes))
        assert again.studies[0].name == tuning.studies[0].name
        assert any("going on with study" in line for line in lines)
    with pytest.raises(UserError, match="study 'baseline' is one of head 'baseline', not of 'cnn'"):
        open_search(request(tmp_path, "cnn", study="baseline"))


def test_every_trial_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    found = search(request(tmp_path, "cnn", match_params="60k", trials=5, search=("head",)))
    assert found.config.widths[0] not in "".join(found.config.space.names())
    assert all(57_000 <= trial.parameters <= 63_000 for trial in found.trials), found.trials
    assert len({trial.parameters for trial in found.trials}) > 1
    with pytest.raises(UserError, match="cannot have 9,000,000,000 parameters"):
        open_search(request(tmp_path, "cnn", match_params="9000M"))


@pytest.mark.parametrize("objective", ["pareto", "pareto-latency"])
def test_a_front_is_drawn_and_each_of_it_can_be_run(objective: str, tmp_path: Path) -> None:
    wanted = request(tmp_path, objective=objective, trials=5)
    tuning, _ = open_search(wanted)
    found = tuning.conclude(tuning.search(tuning.studies[0], lambda event: None, lambda: False), lambda event: None)
    assert found.front
    costs = [trial.values[1] for trial in found.front]
    if objective == "pareto":
        assert costs == [trial.parameters for trial in found.front]
    else:
        assert all(0 < milliseconds < 1000 for milliseconds in costs)
    assert found.config.cost in front_table(found)
    pictures = write_study(tuning.folder(found.config), found, tuning.storage, lambda line: None)
    assert pictures["front"].startswith(b"\x89PNG")
    for trial in found.front:
        again = replace(wanted.run, settings=(), protocol=tmp_path / f"baseline/front/trial-{trial.number}.toml")
        cell = open_search(replace(wanted, run=replace(again, out=tmp_path / "x")))[0].studies[0].cell
        assert dict(cell.config) == dict(trial.config)


def test_the_files_of_a_search(tmp_path: Path) -> None:
    tuning, _ = open_search(request(tmp_path, trials=3))
    found = tuning.search(tuning.studies[0], lambda event: None, lambda: False)
    logged: list[str] = []
    pictures = write_study(tmp_path / "baseline", found, tuning.storage, logged.append)
    write_search(tmp_path, [found], {"baseline": pictures})
    assert {"history", "slice", "parallel"} <= set(pictures)
    assert ("importances" in pictures) != any("scikit-learn" in line for line in logged)
    frame = pd.read_csv(tmp_path / "baseline" / "trials.csv")
    # A trial that failed has its row, and no value.
    assert len(frame) == len(found.trials)
    assert list(frame["value"].dropna().round(4)) == [round(each.values[0], 4) for each in found.trials if each.values]
    page = (tmp_path / "tune.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures) + 1
    assert "http" not in page  # nothing is fetched
    assert len(pd.read_csv(tmp_path / "best-of-k.csv")) == 3


def test_a_sampler_s_next_draw_does_not_depend_on_who_asks(tmp_path: Path) -> None:
    for sampler in ("random", "qmc", "cmaes"):
        if sampler == "cmaes":
            pytest.importorskip("cmaes")
        draws = []
        for folder in ("a", "b"):
            tuning, _ = open_search(request(tmp_path / folder / sampler, sampler=sampler, trials=9))
            config, count = tuning.studies[0], 1 if folder == "a" else 3
            claims = [Study(config, tuning.storage, f"worker {i}") for i in range(count)]
            with ExitStack() as alive:
                for each in claims:
                    alive.enter_context(each.working())
                trials = [claims[i % len(claims)].claim() for i in range(6)]
            draws.append([dict(trial.params) for trial in trials if not isinstance(trial, str)])
        assert draws[0] == draws[1]
        assert len({json.dumps(each) for each in draws[0]}) == 6


CASES: dict[str, tuple[list[str], list[str]]] = {
    "head": (["--head", "cmn"], ["unknown head 'cmn'", "did you mean 'cnn'"]),
    "trials": (["--trials", "0"], ["--trials is from 1 to 100,000, not 0"]),
    "many trials": (["--trials", "100000000"], ["--trials is from 1 to 100,000"]),
    "many seeds": (["--final-seeds", "100000000"], ["--final-seeds is from 0 to 1,000"]),
    "large seed": (["--sampler-seed", "99999999999"], ["--sampler-seed is from 0"]),
    "large grid": (["--search", "head,lr,weight_decay,batch,schedule,loss", "--sampler", "grid"], ["grid of"]),
    "study": (["--study", "../escape"], ["a study's name has", "not '../escape'"]),
    "study of many letters": (["--study", "x" * 300], ["a study's name has"]),
    "executor": (["--executor", "procs"], ["unknown executor 'procs'", "processes"]),
    "local and jobs": (["--executor", "local", "--jobs", "2"], ["--executor local", "--jobs 2"]),
    "password": (["--storage", "postgresql+psycopg:me:secret@h"], ["is not a URL"]),
    "sampler": (["--sampler", "tpee"], ["unknown sampler 'tpee'", "did you mean 'tpe'"]),
    "pruner": (["--pruner", "mean"], ["unknown pruner 'mean'", "median"]),
    "pruner of a front": (["--objective", "pareto", "--pruner", "median"], ["--pruner none"]),
    "objective": (["--objective", "stss"], ["unknown objective 'stss'", "did you mean 'sts'"]),
    "search": (["--search", "haed"], ["unknown search group or field 'haed'"]),
    "space": (["--search", "lr", "--set", "pretrain.learning_rate=1e-3"], ["nothing to search", "--show-space"]),
    "storage": (["--storage", "redis://x"], ["unknown storage 'redis://x'", "journal:PATH"]),
    "size": (["--match-params", "big"], ["--match-params takes a number", "250k"]),
}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchkit", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, parts = CASES[name]
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "tune", "--head", "cnn", *FLAGS, *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("benchkit: error: ")
    assert all(part in lines[-1] for part in parts), lines
    assert "secret" not in lines[-1]
    assert not any(line.startswith("Traceback") for line in lines)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--from-study", "cnn"], "no study 'cnn' in the journals under results/tune"),
        (["--from-study", "cnn", "--preset", "demo"], "leave out --preset"),
        (["--storage", "journal:x"], "name it with --from-study"),
    ],
)
def test_run_from_a_study_that_is_not_there(
    arguments: list[str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "run", *arguments) == 2
    assert part in capsys.readouterr().err


@pytest.mark.slow
def test_from_study_gives_the_same_numbers_again(tmp_path: Path) -> None:
    found = search(request(tmp_path, trials=5, final_seeds=1))
    assert found.final is not None
    options = {"out": tmp_path / "again", "jobs": 1, "threads": 1, "device": "cpu", "feature_cache": True}
    url = f"journal:{tmp_path / 'studies.journal'}"
    options |= {"head_files": (), "data": "", "encoder": "", "keep_encoder": "best", "encoder_dtype": "bf16"}
    options |= {"cuda_graph": None, "compiled": False}
    again, out = run_again("baseline", url, (1,), options, lambda event: None)
    assert again.differences == found.final.differences
    assert set(again.differences) == {"sst", "quora", "sts", "mean"}
    keys = {record.key for records in found.final.records.values() for record in records}
    assert {path.parent.name for path in (out / "cells").glob("*/record.json")} == keys  # trained again, not reused
    assert "mean of tasks" in final_table(again)
