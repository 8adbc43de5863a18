"""A search: studies of several heads, what they found, and the best config against the default on fresh seeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from benchkit.analysis.statistics import Difference, Paired, paired_differences
from benchkit.core.errors import UserError, unknown
from benchkit.core.plugins import Plugins, load_plugins
from benchkit.core.protocol import parse_settings
from benchkit.core.record import Record
from benchkit.core.task import TaskSpec
from benchkit.experiment import executors
from benchkit.experiment.cell import Cell
from benchkit.experiment.config import Request, requested_protocol
from benchkit.experiment.run_cell import Emit
from benchkit.experiment.session import Session
from benchkit.experiment.workspace import Workspace
from benchkit.store.cells import CellStore
from benchkit.store.files import cache_root
from benchkit.tuning.space import COSTS, DEFAULT_GROUPS, build_space, check_methods, parse_size, without_width
from benchkit.tuning.storage import Storage, absolute, open_storage, shown
from benchkit.tuning.study import (
    Study,
    StudyConfig,
    Trial,
    best,
    check_name,
    open_study,
    pareto_front,
    read_config,
    study_names,
)
from benchkit.tuning.trial import BEST, DEFAULT, run_next, storage_of, write_protocols, write_trial

_TUNED = Path("results/tune")
_AS_GIVEN = ("device", "threads", "feature_cache", "keep_encoder", "encoder_dtype", "cuda_graph", "compiled")
"""How a final comparison is run: as the search, or as `benchkit run` was told."""

_RESTARTS = 3  # of workers that died, for each that runs at the same time
SEED = 0  # of every trial's training: configs differ, batches and initial draws do not
_FRESH = tuple(range(1, 1001))  # seeds that no trial was trained with


@dataclass(frozen=True)
class TuneRequest:
    """The options of `benchkit tune`; those that it shares with `benchkit run` are in `run`."""

    run: Request
    trials: int = 50
    search: tuple[str, ...] = ()
    sampler: str = "tpe"
    sampler_seed: int = 0
    pruner: str = ""
    objective: str = "mean"
    match_params: str = ""
    study: str = ""
    storage: str = ""
    final_seeds: int = 3


@dataclass(frozen=True)
class FinalComparison:
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


@dataclass(frozen=True)
class StudyResult:
    """One head's study.

    Attributes:
        problem: why it was ended before it had its trials, or "".
        front: of a study with two objectives, the trials that none beats.
        final: None where it was not asked for, or nothing was found.
    """

    config: StudyConfig
    trials: tuple[Trial, ...]
    problem: str
    front: tuple[Trial, ...] = ()
    final: FinalComparison | None = None

    @property
    def head(self) -> str:
        return self.config.head

    @property
    def best(self) -> Trial | None:
        return best(self.trials)


@dataclass
class TrialQueue(executors.JobQueue):
    """Jobs that run a trial each, until the study has enough or `stopped` says so.

    Attributes:
        restarts: jobs whose worker may still die.
        next_ask: when to ask again, after there was no trial to run while the last ones run elsewhere.
    """

    config: StudyConfig
    emit: Emit
    stopped: Callable[[], bool]
    restarts: int
    done: bool = False
    next_ask: float = 0.0

    def next(self) -> executors.Job | Literal["wait"] | None:
        if self.done or self.stopped():
            return None
        if time.monotonic() < self.next_ask:
            return "wait"
        return executors.Job.of(run_next, self.config.to_data(), self.config.cell.head_files)

    def ended(self, job: executors.Job, result: executors.Result) -> None:
        if result["event"] == "error":
            raise UserError(result["line"])
        if result["event"] == "died":
            how = executors.describe_end(result["code"])
            self.restarts -= 1
            if not self.restarts:
                raise UserError(f"workers of study {self.config.name!r} keep dying; the last {how}")
            self.emit({"event": "log", "line": f"a worker {how}; its trial will be tried again"})
        else:
            self.done = self.done or result["state"] == "done"
            self.next_ask = time.monotonic() + executors.POLL_SECONDS if result["state"] == "wait" else 0.0


@dataclass
class Tuning:
    """A resolved request: a study a head, with what is loaded for all of them."""

    request: TuneRequest
    session: Session
    studies: list[StudyConfig]
    url: str
    opened: Storage | None = None

    @staticmethod
    def open(request: TuneRequest, plugins: Plugins, emit: Emit) -> Tuning:
        """Settle every option; opens no storage yet.

        Raises:
            UserError: something in it is unknown, missing or impossible.
        """
        request = replace(request, pruner=request.pruner or ("none" if request.objective in COSTS else "median"))
        _check(request)
        phases = request.run.phases or requested_protocol(request.run, plugins).phases[:1]
        session = Session.open(replace(request.run, seeds=(SEED,), phases=phases), plugins, emit)
        out = request.run.out or _TUNED / session.plan.out.name
        session.plan = replace(session.plan, out=out)
        objectives = ("mean", *COSTS, *session.plan.protocol.tasks)
        if request.objective not in objectives:
            raise unknown("objective", request.objective, objectives)
        url = absolute(request.storage or f"journal:{out / 'studies.journal'}")
        return Tuning(request, session, [_config(request, session, cell, url) for cell in session.cells], url)

    @property
    def storage(self) -> Storage:
        assert self.opened is not None
        return self.opened

    def start(self, emit: Emit) -> None:
        """Open the storage and the studies, and encode what all trials read."""
        self.opened = storage_of(self.url, self.session.workspace)
        for i, config in enumerate(self.studies):
            self.studies[i], note = open_study(self.storage, config)
            if note:
                emit({"event": "log", "line": note})
        self.session.encode(self.session.cells)
        for line in self._remarks():
            emit({"event": "log", "line": line})

    def search(self, config: StudyConfig, emit: Emit, stopped: Callable[[], bool]) -> StudyResult:
        """Bring one study to its number of trials, or as near as it gets.

        Raises:
            UserError: a worker could not work, or workers kept dying.
        """
        study, plan = Study(config, self.storage), self.session.plan
        emit({"event": "study", "head": config.head, "wanted": config.wanted(), "counts": study.counts()})
        executor = executors.make_executor(plan.executor, self.session.workspace, plan.jobs, config.trials)
        try:
            executor.run(TrialQueue(config, emit, stopped, _RESTARTS * executor.jobs), emit)
        except BaseException:
            study.fail_lost()  # leave no trial running that nobody runs
            raise
        trials = tuple(study.trials())
        front = tuple(pareto_front(trials)) if config.cost else ()
        return StudyResult(config, trials, config.given_up(trials), front)

    def conclude(self, found: StudyResult, emit: Emit) -> StudyResult:
        """Write the best config and the default as protocols, train both with fresh seeds, and compare them."""
        if found.best is None:
            return found
        folder, workspace = self.folder(found.config), self.session.workspace
        write_protocols(folder, found.config, found.best, workspace)
        for trial in found.front:
            comment = f"Trial {trial.number}: dev mean {trial.values[0]:.4f} with {trial.parameters:,} parameters."
            write_trial(folder / "front" / f"trial-{trial.number}.toml", found.config, trial, comment, workspace)
        if not self.request.final_seeds:
            return found
        run = self.request.run
        shared: dict[str, Any] = {name: getattr(run, name) for name in ("head_files", "jobs", *_AS_GIVEN)}
        request = Request(seeds=_FRESH[: self.request.final_seeds], out=folder / "final", **shared)
        return replace(found, final=retrain(folder, request, workspace.plugins, emit))

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()

    def folder(self, config: StudyConfig) -> Path:
        return self.session.plan.out / config.name

    def _remarks(self) -> list[str]:
        plan, workspace = self.session.plan, self.session.workspace
        corpus = workspace.corpus(plan.data, plan.protocol)
        lines = []
        for settings in self.session.feature_settings(self.session.cells):
            report = workspace.table(plan.encoder, corpus, settings).report
            lines.append(
                f"features ({settings.reads}): {report.encoded:,} texts encoded in {report.seconds:.1f} s, "
                f"{report.reused:,} were stored; no trial encodes them again"
            )
        slow = [phase for phase in plan.protocol.phases if plan.protocol.phase(phase).trains_encoder]
        lines += [f"phase {phase} trains the encoder in every trial: most of the time will go there" for phase in slow]
        return lines


_GRID_LIMIT = 100_000  # points
# Most that makes sense by far; beyond, memory or patience would end before the search does.
_LIMITS = {"trials": (1, 100_000), "final_seeds": (0, len(_FRESH)), "sampler_seed": (0, 2**32 - 1)}


def _check(request: TuneRequest) -> None:
    for name, (low, high) in _LIMITS.items():
        value = getattr(request, name)
        if not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} is from {low:,} to {high:,}, not {value}")
    check_methods(request.sampler, request.pruner, request.objective)
    if request.study:
        check_name(request.study)


def _config(request: TuneRequest, session: Session, cell: Cell, url: str) -> StudyConfig:
    """A head's study; its name is that of the head, or made of the one that was given."""
    workspace = session.workspace
    spec, protocol = workspace.plugins.head(cell.head), session.plan.protocol
    given = parse_settings(request.run.settings).items()  # what `--set` sets is not searched
    pins = [f"{table}.{name}" for table, value in given for name in (value if isinstance(value, dict) else ())]
    pins += [name for name, value in given if not isinstance(value, dict)]
    tasks = workspace.tasks(protocol)
    space = build_space(spec, session.plan.configs[cell.head], protocol, tasks, request.search or DEFAULT_GROUPS, pins)
    size = parse_size(request.match_params) if request.match_params else 0
    widths: tuple[str, ...] = ()
    if size:
        space, widths = without_width(space, cell, size, pins, workspace)
    if request.sampler == "grid" and space.grid_size() > _GRID_LIMIT:
        raise UserError(
            f"a grid of {space.grid_size():,} points is too large (at most {_GRID_LIMIT:,}): narrow --search"
        )
    several = len(session.plan.heads) > 1
    name = check_name(f"{request.study}-{cell.head}" if request.study and several else request.study or cell.head)
    encoder, data = request.run.encoder or protocol.encoder, request.run.data or protocol.data
    same = ("objective", "trials", "sampler", "sampler_seed", "pruner")
    shared: dict[str, Any] = {field: getattr(request, field) for field in same}
    return StudyConfig(name, url, cell, space, size=size, widths=widths, encoder=encoder, data=data, **shared)


def describe(tuning: Tuning, config: StudyConfig) -> list[str]:
    """What is about to be searched, a line each."""
    size = f", {config.size:,} parameters ±5 % by {', '.join(config.widths[:1])}" if config.size else ""
    goal = f"{config.quality} against {config.cost}" if config.cost else config.quality
    sampler = f"sampler {config.sampler} (seed {config.sampler_seed}), pruner {config.pruner}"
    phases = " then ".join(config.cell.protocol.phases)
    return [
        f"{config.head}: study {config.name!r} in {shown(tuning.url)}",
        f"  {config.trials} trials, {sampler}, for {goal}{size};",
        f"  every trial trains {phases} with seed {config.cell.seed} and never sees test",
    ]


def retrain(folder: Path, request: Request, plugins: Plugins, emit: Emit) -> FinalComparison:
    """Train `default.toml` and `best.toml` of a folder with the request's seeds, in fresh processes, and compare.

    Finished cells are reused; with another `out` everything is trained again, to the same numbers.

    Raises:
        UserError: a protocol is missing, or what it names cannot be used.
    """
    sessions = {
        name: Session.open(replace(request, protocol=folder / f"{name}.toml"), plugins, emit)
        for name in (DEFAULT, BEST)
    }
    records = {}
    for name, each in sessions.items():
        records[name] = each.run(emit, executors.LocalProcesses(each.workspace, each.plan.jobs)).records
    session = sessions[BEST]
    return compare(records, session.store, session.workspace.tasks(session.plan.protocol))


def compare(records: dict[str, tuple[Record, ...]], store: CellStore, tasks: Sequence[TaskSpec]) -> FinalComparison:
    """The paired test on the last phase's predictions, over the tasks that have labels on test."""
    split, pairs, first = "test", dict[str, Paired](), records[DEFAULT]
    if all(record.status in ("ok", "collapsed") for side in records.values() for record in side):
        a, b = ([store.predictions(record.key) for record in records[side]] for side in (DEFAULT, BEST))
        for split in ("test", "dev"):
            pairs = {task.name: pair for task in tasks if (pair := _pair(a, b, task, split))}
            if pairs:
                break
    seeds = tuple(record.seed for record in first)
    metrics = {task.name: task.metric.name for task in tasks}
    return FinalComparison(first[0].head, split, seeds, metrics, paired_differences(pairs) if pairs else {}, records)


def _pair(a: Sequence[pd.DataFrame], b: Sequence[pd.DataFrame], task: TaskSpec, split: str) -> Paired | None:
    """A task's predictions side by side; None if the split is unlabelled."""
    sides = [[frame[(frame["task"] == task.name) & (frame["split"] == split)] for frame in frames] for frames in (a, b)]
    first = sides[0][0]
    if not len(first) or first["label"].isna().any():
        return None
    if any(list(frame["id"]) != list(first["id"]) for side in sides for frame in side):
        raise UserError(f"predictions of {task.name} {split} are not for the same examples: run it again")
    before, after = (np.stack([frame["prediction"].to_numpy(float) for frame in side]) for side in sides)
    return Paired(first["label"].to_numpy(float), before, after, task.metric.score)


def run_again(
    name: str, url: str, seeds: Sequence[int], options: Mapping[str, Any], emit: Emit
) -> tuple[FinalComparison, Path]:
    """Train the best config of a study and its default, and compare them.

    Args:
        url: of the storage; "" looks into the journals under `results/tune`.
        seeds: by default those that `benchkit tune` takes.
        options: of `benchkit run`: where and how to run, and where data and encoder are.

    Returns:
        The comparison, and the folder with its cells.

    Raises:
        UserError: there is no such study, or no trial of it is complete.
    """
    storage, folder = _find(check_name(name), url)
    with closing(storage):
        config = read_config(storage, name)
        found = best(Study(config, storage).trials())
    if found is None:
        raise UserError(f"study {name!r} has no complete trial: go on with benchkit tune --study {name}")
    files = tuple(options["head_files"]) or tuple(map(Path, config.cell.head_files))
    plugins = load_plugins(files)
    workspace = Workspace(plugins, cache_root(), lambda line: emit({"event": "log", "line": line}))
    out = options["out"] or folder / name / "final"
    write_protocols(out, config, found, workspace)
    own = {"data": options["data"] or "", "encoder": options["encoder"] or "", "jobs": options["jobs"] or 0}
    shared: dict[str, Any] = {name: options[name] for name in _AS_GIVEN} | own
    request = Request(head_files=files, seeds=tuple(seeds) or _FRESH[:3], out=out, **shared)
    return retrain(out, request, plugins, emit), out


def _find(name: str, url: str) -> tuple[Storage, Path]:
    """The storage of a study, and the folder that its results belong in."""
    if url:
        return open_storage(absolute(url), create=False), _TUNED / "from-study"
    found = []
    for path in sorted(_TUNED.glob("*/studies.journal")):
        storage = open_storage(f"journal:{path}", create=False)
        if name in study_names(storage):
            found.append((storage, path.parent))
    if not found:
        raise UserError(f"no study {name!r} in the journals under {_TUNED}: say where it is with --storage")
    if len(found) > 1:
        places = ", ".join(f"journal:{folder / 'studies.journal'}" for _, folder in found)
        raise UserError(f"study {name!r} is in several journals: choose one with --storage, of {places}")
    return found[0]
