"""The numbers of a report, against pandas and scipy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from helpers.failures import failure
from scipy import stats

from benchkit.analysis.report import curves_frame, summary_frame
from benchkit.analysis.statistics import spread
from benchkit.analysis.tables import collect, duration
from benchkit.core.record import CurvePoint, PhaseResult, Record, Score, Status
from benchkit.core.task import Metric, TaskSpec
from benchkit.experiment.companions import Control

TASKS = {
    name: TaskSpec(name, "", ("text",), "label", Metric(metric, lambda _, __: 0.0), {}, ())
    for name, metric in (("tone", "accuracy"), ("twin", "pearson"))
}
COLUMNS = "head,task,phase,split,metric,mean,std,ci_low,ci_high,n_seeds,head_params,train_seconds,error"


def _phase(name: str, seed: int, values: Mapping[tuple[str, str], float], seconds: float = 1.0) -> PhaseResult:
    scores = tuple(
        Score(task, split, TASKS[task].metric.name, value, 1.0, 10) for (task, split), value in values.items()
    )
    curve = tuple(
        CurvePoint(name, epoch, task, split, TASKS[task].metric.name, value, epoch / 7)
        for epoch in (1, 2)
        for (task, split), value in values.items()
    )
    return PhaseResult(name, 2, 2, 8, 4, f"order {seed}", seconds, 0.5, scores, curve)


def _record(head: str, seed: int, *phases: PhaseResult, status: Status = "ok", error: str = "") -> Record:
    return Record(
        f"{head}-{seed}",
        head,
        seed,
        status,
        {},
        parameters={"head": 1234},
        phases=phases,
        failure=failure(error),
    )


def _values(rng: np.random.Generator, without: str = "") -> dict[tuple[str, str], float]:
    keys = [(task, split) for task in TASKS for split in ("train", "dev", "test")]
    return {key: float(rng.uniform()) for key in keys if key != (without, "test")}


def _row(frame: pd.DataFrame, **where: object) -> pd.Series:
    for column, value in where.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


@pytest.mark.parametrize("seeds", [2, 5])
def test_means_and_intervals_are_those_of_scipy(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    records = [
        _record(
            head,
            seed,
            *(_phase(phase, seed, _values(rng), 10.0 + seed) for phase in ("pretrain", "finetune")),
        )
        for head in ("b", "a")
        for seed in range(seeds)
    ]
    frame = summary_frame(collect(records, [], TASKS))
    long = pd.DataFrame(
        [
            (record.head, score.task, phase.name, score.split, record.seed, score.value)
            for record in records
            for phase in record.phases
            for score in phase.scores
        ],
        columns=["head", "task", "phase", "split", "seed", "value"],
    )
    overall = long.groupby(["head", "phase", "split", "seed"], as_index=False)["value"].mean()
    both = pd.concat([long, overall.assign(task="mean")])
    keys = ["head", "task", "phase", "split"]
    expected = both.groupby(keys)["value"].agg(["mean", "std", "count", "sem"]).reset_index()
    assert len(frame) == len(expected) == 2 * 3 * 2 * 3
    for _, want in expected.iterrows():
        got = _row(frame, **{key: want[key] for key in keys})
        low, high = stats.t.interval(0.95, want["count"] - 1, loc=want["mean"], scale=want["sem"])
        assert got[["mean", "std", "ci_low", "ci_high"]].tolist() == pytest.approx(
            [want["mean"], want["std"], low, high], rel=1e-9
        )
        assert got["n_seeds"] == seeds
        assert got["head_params"] == 1234
        assert got["train_seconds"] == pytest.approx(10 + (seeds - 1) / 2)
        assert got["error"] == ""


def test_columns_and_order() -> None:
    rng = np.random.default_rng(0)
    control = [Control("majority class", task, "dev", "accuracy", 0.5, 0.7) for task in ("twin", "tone")]
    records = [
        _record(head, 0, _phase("pretrain", 0, _values(rng)), _phase("finetune", 0, _values(rng)))
        for head in ("b", "a")
    ]
    frame = summary_frame(collect(records, control, TASKS))
    assert ",".join(frame.columns) == COLUMNS
    assert frame["head"].drop_duplicates().tolist() == ["b", "a", "majority class"]
    one = frame[frame["head"] == "b"]
    assert one["phase"].drop_duplicates().tolist() == ["pretrain", "finetune"]
    assert one["task"].drop_duplicates().tolist() == ["tone", "twin", "mean"]
    assert one["split"].drop_duplicates().tolist() == ["train", "dev", "test"]
    assert frame["task"].tolist()[-2:] == ["tone", "twin"]
    assert frame[["phase", "n_seeds"]].to_numpy().tolist()[-1] == ["", 0]
    assert frame["mean"].tolist()[-1] == 0.5
    assert frame[["std", "ci_low", "ci_high"]].isna().all(axis=None)


def test_the_mean_over_tasks_needs_every_task() -> None:
    rng = np.random.default_rng(0)
    frame = summary_frame(collect([_record("a", 0, _phase("pretrain", 0, _values(rng, without="twin")))], [], TASKS))
    assert frame.loc[frame["task"] == "mean", "split"].tolist() == ["train", "dev"]
    assert frame.loc[frame["task"] == "twin", "split"].tolist() == ["train", "dev"]
    assert frame.loc[frame["task"] == "tone", "split"].tolist() == ["train", "dev", "test"]


def test_the_gap_is_taken_seed_by_seed() -> None:
    train, test = [0.9, 0.5, 0.7], [0.6, 0.4, 0.1]
    records = [
        _record(
            "a",
            seed,
            _phase("pretrain", seed, {("tone", "train"): train[seed], ("tone", "test"): test[seed]}),
        )
        for seed in range(3)
    ]
    gap = collect(records, [], TASKS).gap("a", "pretrain", "tone", "test")
    assert gap == pytest.approx({0: 0.3, 1: 0.1, 2: 0.6})


def test_what_counts_and_what_does_not() -> None:
    """Of four seeds one is fine, one collapsed and counts, one diverged, one failed: these do not."""
    pretrain = [_phase("pretrain", seed, {("tone", "dev"): 0.1 * seed}) for seed in range(4)]
    finetune = [_phase("finetune", seed, {("tone", "dev"): 0.5 + 0.1 * seed}) for seed in range(4)]
    records = [
        _record("a", 0, pretrain[0], finetune[0]),
        _record("a", 1, pretrain[1], finetune[1], status="collapsed", error="tone predicts\nonly class 'x'"),
        _record("a", 2, pretrain[2], finetune[2], status="diverged", error="finetune ended with a loss of 9"),
        _record("a", 3, pretrain[3], status="failed", error="out of memory"),
    ]
    frame = summary_frame(collect(records, [], {"tone": TASKS["tone"]}))
    before = _row(frame, task="tone", phase="pretrain")
    assert (before["n_seeds"], before["error"]) == (4, "")
    assert before["mean"] == pytest.approx(0.15)
    after = _row(frame, task="tone", phase="finetune")
    assert after["n_seeds"] == 2
    assert after["mean"] == pytest.approx(0.55)
    assert after["error"] == (
        "collapsed (seed 1): tone predicts only class 'x'; "
        "diverged (seed 2): finetune ended with a loss of 9; failed (seed 3): out of memory"
    )


@pytest.mark.parametrize(
    ("status", "error", "done", "spoilt"),
    [
        ("diverged", "pretrain epoch 3: the loss is nan", ("pretrain",), ("pretrain", "finetune")),
        ("diverged", "the loss is nan", ("pretrain", "finetune"), ("finetune",)),
        ("diverged", "the loss is nan", ("pretrain",), ("pretrain", "finetune")),
        ("diverged", "finetune epoch 1: the loss is nan", ("pretrain",), ("finetune",)),
        ("failed", "finetune: out of memory", ("pretrain",), ("finetune",)),
        ("failed", "out of memory", (), ("pretrain", "finetune")),
        ("failed", "out of memory", ("pretrain",), ("finetune",)),
        ("collapsed", "one class", ("pretrain", "finetune"), ("finetune",)),
    ],
)
def test_the_phase_at_fault(status: Status, error: str, done: tuple[str, ...], spoilt: tuple[str, ...]) -> None:
    values = {("tone", "dev"): 0.5}
    record = _record("a", 0, *(_phase(name, 0, values) for name in done), status=status, error=error)
    (fault,) = collect([record], [], TASKS, ("pretrain", "finetune")).faults
    assert fault.phases == spoilt


def test_a_head_that_failed_altogether_still_has_its_rows() -> None:
    records = [_record("a", seed, status="failed", error="no such file") for seed in (0, 1)]
    frame = summary_frame(collect(records, [], TASKS))
    assert len(frame) == 3 * 3
    assert frame["mean"].isna().all()
    assert set(frame["n_seeds"]) == {0}
    assert set(frame["error"]) == {"failed (seeds 0, 1): no such file"}


def test_two_records_of_one_head_and_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="two records of head 'a' with seed 0"):
        collect([_record("a", 0), _record("a", 0)], [], TASKS)


def test_curves_have_a_row_a_point() -> None:
    values = {("tone", "train"): 0.5, ("tone", "dev"): math.nan}
    records = [_record("a", seed, _phase("pretrain", seed, values)) for seed in (0, 1)]
    frame = curves_frame(records)
    assert ",".join(frame.columns) == "cell,head,seed,phase,epoch,task,split,metric,value,loss"
    assert len(frame) == 2 * 2 * 2
    assert frame.iloc[4].tolist()[:9] == ["a-1", "a", 1, "pretrain", 1, "tone", "train", "accuracy", 0.5]
    assert frame["loss"].tolist() == pytest.approx([1 / 7, 1 / 7, 2 / 7, 2 / 7] * 2)
    assert curves_frame([]).empty


def test_one_value_has_no_spread() -> None:
    assert spread([]).n == 0
    one = spread([0.25])
    assert (one.n, one.mean) == (1, 0.25)
    assert math.isnan(one.std)
    assert math.isnan(one.low)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 00 min"),
        (5944, "1 h 39 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
