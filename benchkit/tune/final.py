"""What tuning bought: the best config and the default, trained again with fresh seeds and compared on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchkit.errors import UserError
from benchkit.plugins import Plugins
from benchkit.protocol import Protocol
from benchkit.record import Record
from benchkit.runner.execute import Emit
from benchkit.runner.executor import LocalProcesses
from benchkit.runner.request import Request
from benchkit.runner.session import Session
from benchkit.runner.workspace import Workspace
from benchkit.stats import Difference, Paired, paired_differences
from benchkit.store.atomic import write_atomic
from benchkit.store.cells import CellStore
from benchkit.task import TaskSpec
from benchkit.tune.objective import apply_params, configure, with_config
from benchkit.tune.studies import About
from benchkit.tune.toml import write_toml
from benchkit.tune.trials import Trial

if TYPE_CHECKING:
    import pandas as pd

DEFAULT, BEST = "default", "best"


@dataclass(frozen=True)
class Final:
    """The default config against the best one.

    Attributes:
        split: `test`, or `dev` where no task has a labelled test; dev has chosen the best config, so it flatters it.
        metrics: by task.
        differences: by task, and "mean"; empty where a cell has no numbers.
        records: by `default` and `best`, a record a seed.
    """

    head: str
    split: str
    seeds: tuple[int, ...]
    metrics: dict[str, str]
    differences: dict[str, Difference]
    records: dict[str, tuple[Record, ...]]

    def faults(self) -> list[str]:
        return [
            f"{which} config, seed {record.seed}: {record.status}: {record.error}"
            for which, records in self.records.items()
            for record in records
            if record.status != "ok"
        ]


def fresh_seeds(count: int) -> tuple[int, ...]:
    """Seeds that no trial was trained with: all of them use 0."""
    return tuple(range(1, count + 1))


def write_protocols(folder: Path, about: About, best: Trial, workspace: Workspace) -> None:
    """`default.toml` and `best.toml`, each all that `benchkit run --protocol` needs."""
    job = about.job
    start = configure(job, job.space.default(), workspace).protocol
    tuned = trial_protocol(about, best, workspace)
    for name, protocol, comment in (
        (DEFAULT, start, f"What study {job.study!r} started from."),
        (BEST, tuned, f"Trial {best.number} of study {job.study!r}: dev {job.objective.name} {best.values[0]:.4f}."),
    ):
        write_protocol(folder / f"{name}.toml", about, protocol, comment)


def write_protocol(path: Path, about: About, protocol: Protocol, comment: str) -> None:
    own = replace(protocol, encoder=about.encoder, data=about.data, heads=(about.job.cell.head,))
    files = "".join(f" --head-file {Path(file).name}" for file in about.job.cell.head_files)
    again = f'benchkit run --protocol {path.name}{files} --seeds "{about.job.cell.seed}," trains it as the trial was.'
    write_atomic(path, write_toml(own, (comment, again)).encode())


def trial_protocol(about: About, trial: Trial, workspace: Workspace) -> Protocol:
    """The protocol of a trial, its head's config spelt out."""
    cell = about.job.cell
    return with_config(apply_params(cell, trial.params, workspace), cell.head, trial.config)


def retrain(folder: Path, request: Request, plugins: Plugins, emit: Emit) -> Final:
    """Train `default.toml` and `best.toml` of a folder with the request's seeds, in fresh processes, and compare.

    Finished cells are reused; with another `out` everything is trained again, to the same numbers.

    Raises:
        UserError: a protocol is missing, or what it names cannot be used.
    """
    records, session = {}, None
    for name in (DEFAULT, BEST):
        session = Session.open(replace(request, protocol=folder / f"{name}.toml"), plugins, emit)
        executor = LocalProcesses(session.plan.jobs, Path(session.workspace.cache))
        records[name] = session.run(emit, executor).records
    assert session is not None
    tasks = session.workspace.tasks(session.plan.protocol)
    return compare(records, session.store, tasks)


def compare(records: dict[str, tuple[Record, ...]], store: CellStore, tasks: Sequence[TaskSpec]) -> Final:
    """The paired test on the last phase's predictions, over the tasks that have labels on test."""
    start, best = records[DEFAULT], records[BEST]
    usable = all(record.status in ("ok", "collapsed") for record in (*start, *best))
    split, pairs = "test", {}
    if usable:
        a, b = ([store.predictions(record.key) for record in side] for side in (start, best))
        pairs = {task.name: pair for task in tasks if (pair := _pair(a, b, task, "test"))}
        if not pairs:
            split, pairs = "dev", {task.name: pair for task in tasks if (pair := _pair(a, b, task, "dev"))}
    return Final(
        head=start[0].head,
        split=split,
        seeds=tuple(record.seed for record in start),
        metrics={task.name: task.metric.name for task in tasks},
        differences=paired_differences(pairs) if pairs else {},
        records=records,
    )


def _pair(a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame], task: TaskSpec, split: str) -> Paired | None:
    """A task's predictions side by side; None if the split is unlabelled."""

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["task"] == task.name) & (frame["split"] == split)]

    first = rows(a[0])
    if not len(first) or first["label"].isna().any():
        return None
    sides = []
    for side in (a, b):
        found = [rows(frame) for frame in side]
        if any(list(each["id"]) != list(first["id"]) for each in found):
            raise UserError(f"predictions of {task.name} {split} are not for the same examples: run it again")
        sides.append(np.stack([each["prediction"].to_numpy(float) for each in found]))
    return Paired(first["label"].to_numpy(float), sides[0], sides[1], task.metric.score)
