"""`--at-once`: cells and trials that take turns in one process give the numbers that they give one after the other."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from benchkit.tuning.trials import load
from helpers.cli import Call, caller
from helpers.runs import SIZES, flags, run
from helpers.tuning import FLAGS, open_search, request

from benchkit.core.errors import UserError
from benchkit.core.record import Record
from benchkit.experiment.executors import Together
from benchkit.store.cells import CellStore
from benchkit.store.files import locked
from benchkit.tuning.search import Tuning
from benchkit.tuning.storage import open_storage
from benchkit.turns import pause, together

CALM = ["--sampler", "random", "--search", "head", "--set", "pretrain.learning_rate=1e-4"]  # no trial diverges


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


def numbers(records: tuple[Record, ...]) -> list[Any]:
    """All that a cell measured, times apart; predictions by their hash."""
    return [
        (
            each.key,
            each.status,
            each.predictions_sha256,
            [dataclasses.replace(phase, train_seconds=0.0, eval_seconds=0.0) for phase in each.phases],
        )
        for each in records
    ]


def check_same(folder: Path, heads: str, seeds: int, at_once: int, **options: Any) -> None:
    alone = run(folder / "a", heads, seeds=seeds, **options)
    turns = run(folder / "b", heads, seeds=seeds, at_once=at_once, **options)
    assert numbers(alone.cells) == numbers(turns.cells)
    assert {each.status for each in turns.cells} <= {"ok", "collapsed"}
    for record in alone.cells:
        one, other = (CellStore(folder / name / "cells").weights(record.key) for name in "ab")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_cells_in_turns_are_those_one_after_the_other_bit_for_bit(tmp_path: Path) -> None:
    heads = "baseline,recurrent,cnn,token-cnn,layer-mix"
    check_same(tmp_path, heads, seeds=2, at_once=4, settings={"pretrain.learning_rate": 1e-4})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_they_are_as_near_as_rounding_leaves_them(tmp_path: Path) -> None:
    options = {"seeds": 2, "device": "cuda", "settings": {"pretrain.learning_rate": 1e-4}}
    alone = run(tmp_path / "a", "baseline,recurrent,token-cnn", **options)
    turns = run(tmp_path / "b", "baseline,recurrent,token-cnn", at_once=4, **options)
    for one, other in zip(alone.cells, turns.cells, strict=True):
        assert one.phases[0].order_hash == other.phases[0].order_hash
        assert [p.loss for p in one.phases[0].curve] == pytest.approx([p.loss for p in other.phases[0].curve], rel=1e-2)


def test_each_trains_an_encoder_of_its_own(tmp_path: Path) -> None:
    phases = {"phases": "pretrain,finetune", "settings": {"pretrain.epochs": 1, "finetune.epochs": 1}}
    check_same(tmp_path, "baseline,recurrent", seeds=2, at_once=3, **phases)


def test_features_anew_and_interference(tmp_path: Path) -> None:
    options = {"feature_cache": False, "interference": True, "settings": {"pretrain.epochs": 1}}
    check_same(tmp_path, "baseline", seeds=3, at_once=3, **options)


def test_epochs_of_several_cells_mix(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run(tmp_path, "baseline", seeds=4, at_once=2, on_event=events.append)
    told = [(each["event"], each["key"]) for each in events if each["event"] in ("start", "epoch", "cell")]
    keys = list(dict.fromkeys(key for _, key in told))
    assert [event for event, _ in told].count("cell") == len(keys) == 4
    assert [key for event, key in told if event == "epoch"][:2] == keys[:2], "the first two are under way together"
    running: set[str] = set()
    for event, key in told:
        running = running | {key} if event == "start" else running - {key} if event == "cell" else running
        assert len(running) <= 2


def test_a_head_that_fails_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(BROKEN)
    result = run(tmp_path / "out", "baseline,broken,cnn", head_files=[broken], at_once=3)
    assert [cell.status == "failed" for cell in result.cells] == [False, True, False]
    assert "no such luck" in result.cells[1].error


BROKEN = """
from dataclasses import dataclass
from torch import nn
from benchkit import HeadSpec, hookimpl

@dataclass(frozen=True)
class Config:
    pass

class Head(nn.Module):
    def __init__(self, config, hidden, tasks):
        super().__init__()
        self.trunk = nn.Identity()
        self.branches = nn.ModuleDict({t.name: nn.Linear(hidden, t.out) for t in tasks})

    def forward(self, features, task):
        raise RuntimeError("no such luck")

@hookimpl
def benchkit_heads():
    return [HeadSpec("broken", "Fails.", Head, Config)]
"""


def test_a_store_that_cannot_be_written_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise UserError("no space left")

    monkeypatch.setattr(CellStore, "save", full)
    with pytest.raises(UserError, match="no space left"):
        run(tmp_path, "baseline", seeds=4, at_once=3)


def test_what_decides_how_cells_run(tmp_path: Path) -> None:
    asked: list[int] = []

    class Spy(Together):
        def run(self, *arguments: Any) -> None:
            asked.append(self.at_once)
            super().run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchkit.experiment.session.Together", Spy)
        run(tmp_path / "a", seeds=2, at_once=8)
        run(tmp_path / "b", seeds=1, at_once=8)
        run(tmp_path / "c", seeds=2)
    assert asked == [8]
    with pytest.raises(UserError, match="--jobs and --at-once exclude each other"):
        run(tmp_path, jobs=2, at_once=2)


def test_run_at_once_on_the_command_line(tmp_path: Path, call: Call) -> None:
    shared = ["run", "--heads", "baseline,cnn", "--seeds", "2", "--phases", "pretrain", "--device", "cpu", *flags()]
    frames = []
    for name, how in (("a", ["--jobs", "1"]), ("b", ["--at-once", "3"])):
        done = call(*shared, *how, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "[4/4]" in done.stderr
        frames.append(pd.read_csv(tmp_path / name / "summary.csv").drop(columns="train_seconds"))
    pd.testing.assert_frame_equal(frames[0], frames[1], check_exact=True)
    again = call(*shared, "--at-once", "3", "--out", tmp_path / "b")
    assert "4 of 4 cells are finished already" in again.stderr
    dry = call(*shared, "--at-once", "3", "--out", tmp_path / "c", "--dry-run")
    assert "for 3 cells at once" in dry.stdout


@pytest.mark.parametrize("scheme", ["journal:", "sqlite:///"])
def test_exactly_as_many_trials_as_were_asked_for(scheme: str, tmp_path: Path, call: Call) -> None:
    url = f"{scheme}{tmp_path / 'studies'}"
    shared = ["tune", "--head", "baseline", *FLAGS, "--final-seeds", "0", "--device", "cpu", *CALM]
    for trials, at_once in ((7, 3), (8, 20)):
        done = call(*shared, "--trials", trials, "--at-once", at_once, "--storage", url, "--out", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert f"[{trials}/{trials}]" in done.stderr
        with closing(open_storage(url)) as storage:
            found = load("baseline", storage).trials
        assert len(found) == trials
        assert {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED"}
        assert len({trial.user_attrs["worker"] for trial in found[:7]}) == 3, "all took part"


def test_a_trial_in_turns_is_what_it_is_alone(tmp_path: Path) -> None:
    values = []
    for name, at_once in (("a", 1), ("b", 3)):
        wanted = request(tmp_path / name, "recurrent", trials=4, sampler="random", settings=("pretrain.epochs=1",))
        wanted = dataclasses.replace(wanted, run=dataclasses.replace(wanted.run, at_once=at_once))
        tuning, _ = open_search(wanted)
        found = tuning.search(tuning.jobs[0], lambda event: None, lambda: False)
        values.append([(trial.params, trial.values) for trial in found.trials])
        tuning.close()
    assert values[0] == values[1]


def open_three(out: Path) -> Tuning:
    """A search of 50 trials, three at once."""
    wanted = request(out, trials=50, search=("head",), settings=("pretrain.learning_rate=1e-4",))
    return open_search(dataclasses.replace(wanted, run=dataclasses.replace(wanted.run, at_once=3)))[0]


def test_the_first_ctrl_c_finishes_the_running_trials(tmp_path: Path) -> None:
    tuning = open_three(tmp_path)
    ended: list[int] = []

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "trial":
            ended.append(event["number"])

    found = tuning.search(tuning.jobs[0], emit, lambda: bool(ended))
    assert [trial.state for trial in found.trials] == ["COMPLETE"] * 3
    tuning.close()


def test_the_second_ctrl_c_queues_them_again(tmp_path: Path) -> None:
    tuning = open_three(tmp_path)

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["number"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.search(tuning.jobs[0], emit, lambda: False)
    states = [trial.state.name for trial in load("baseline", tuning.storage).trials]
    assert states == ["FAIL"] * 3 + ["WAITING"] * 3
    tuning.close()


def test_memory_holds_one_copy_of_what_is_read(tmp_path: Path) -> None:
    """What cells that run at the same time share, and what goes when the next kind is asked for."""
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.config import Request
    from benchkit.experiment.session import Session

    settings = tuple(f"{name}={value}" for name, value in SIZES.items())
    asked = Request(heads=("baseline", "layer-mix"), encoder="demo", settings=settings, out=tmp_path, device="cpu")
    session = Session.open(asked, load_plugins(()), lambda event: None)
    plan, workspace, device = session.plan, session.workspace, torch.device("cpu")
    corpus = workspace.corpus(plan.data, plan.protocol)
    pooled, layers = session.feature_settings(session.cells)
    first = workspace.resident(plan.encoder, corpus, pooled, device)
    assert workspace.resident(plan.encoder, corpus, pooled, device) is first
    workspace.resident(plan.encoder, corpus, layers, device)
    assert workspace.resident(plan.encoder, corpus, pooled, device) is first, "it is still read"
    del first
    workspace.resident(plan.encoder, corpus, layers, device)
    assert len(workspace._resident) == 1


def test_a_lock_of_one_that_waits_for_its_turn(tmp_path: Path) -> None:
    """Waiting for it must not keep the turn, or neither would ever go on."""
    seen: list[str] = []

    def holds() -> None:
        with locked(tmp_path / "lock", wait=True):
            for _ in range(3):
                pause()
            seen.append("first")

    def wants() -> None:
        with locked(tmp_path / "lock", wait=True, on_wait=lambda: seen.append("waits")):
            seen.append("second")

    together([holds, wants])
    assert seen == ["waits", "first", "second"]
