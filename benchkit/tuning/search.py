"""A search: studies of several heads, and what they found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchkit.core.errors import UserError, unknown
from benchkit.core.plugins import Plugins
from benchkit.core.protocol import parse_settings
from benchkit.experiment.cell import Cell
from benchkit.experiment.config import Request, requested_protocol
from benchkit.experiment.executors import POLL_SECONDS, Job, JobQueue, Result, describe_end, make_executor
from benchkit.experiment.run_cell import Emit
from benchkit.experiment.session import Session
from benchkit.tuning.final import (
    FinalComparison,
    fresh_seeds,
    retrain,
    trial_protocol,
    write_protocol,
    write_protocols,
)
from benchkit.tuning.space import DEFAULT_GROUPS, build_space, empty, fit_size, parse_size, width_fields
from benchkit.tuning.storage import Storage, absolute, shown
from benchkit.tuning.study import (
    COSTS,
    GRID_LIMIT,
    Objective,
    Study,
    StudyConfig,
    Trial,
    best,
    check_name,
    check_pruner,
    check_sampler,
    given_up,
    open_study,
    pareto_front,
)
from benchkit.tuning.trial import run_next, storage_of

_RESTARTS = 3  # of workers that died, for each that runs at the same time
SEED = 0  # of every trial's training: configs differ, batches and initial draws do not


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
class TrialQueue(JobQueue):
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

    def next(self) -> Job | Literal["wait"] | None:
        if self.done or self.stopped():
            return None
        if time.monotonic() < self.next_ask:
            return "wait"
        return Job.of(run_next, self.config.to_data(), self.config.cell.head_files)

    def ended(self, job: Job, result: Result) -> None:
        if result["event"] == "error":
            raise UserError(result["line"])
        if result["event"] == "died":
            self._died(describe_end(result["code"]))
        else:
            self.done = self.done or result["state"] == "done"
            self.next_ask = time.monotonic() + POLL_SECONDS if result["state"] == "wait" else 0.0

    def _died(self, how: str) -> None:
        self.restarts -= 1
        if not self.restarts:
            raise UserError(f"workers of study {self.config.name!r} keep dying; the last {how}")
        self.emit({"event": "log", "line": f"a worker {how}; its trial will be tried again"})


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
        _check(request)
        phases = request.run.phases or requested_protocol(request.run, plugins).phases[:1]
        session = Session.open(replace(request.run, seeds=(SEED,), phases=phases), plugins, emit)
        out = request.run.out or Path("results/tune") / session.plan.out.name
        session.plan = replace(session.plan, out=out)
        _check_objective(request.objective, session.plan.protocol.tasks)
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
        executor = make_executor(plan.executor, self.session.workspace, plan.jobs, config.trials)
        try:
            executor.run(TrialQueue(config, emit, stopped, _RESTARTS * executor.jobs), emit)
        except BaseException:
            study.fail_lost()  # leave no trial running that nobody runs
            raise
        trials = tuple(study.trials())
        front = tuple(pareto_front(trials)) if config.objective.cost else ()
        return StudyResult(config, trials, given_up(trials, config.trials), front)

    def conclude(self, found: StudyResult, emit: Emit) -> StudyResult:
        """Write the best config and the default as protocols, train both with fresh seeds, and compare them."""
        if found.best is None:
            return found
        folder, workspace = self.folder(found.config), self.session.workspace
        write_protocols(folder, found.config, found.best, workspace)
        for trial in found.front:
            comment = f"Trial {trial.number}: dev mean {trial.values[0]:.4f} with {trial.parameters:,} parameters."
            protocol = trial_protocol(found.config, trial, workspace)
            write_protocol(folder / "front" / f"trial-{trial.number}.toml", found.config, protocol, comment)
        if not self.request.final_seeds:
            return found
        request = final_request(self.request.run, folder, fresh_seeds(self.request.final_seeds))
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


def final_request(run: Request, folder: Path, seeds: Sequence[int]) -> Request:
    """What trains the two protocols of a folder; everything but how it is run comes from these."""
    return Request(
        head_files=run.head_files,
        seeds=tuple(seeds),
        device=run.device,
        out=folder / "final",
        jobs=run.jobs,
        threads=run.threads,
        feature_cache=run.feature_cache,
        cuda_graph=run.cuda_graph,
        compiled=run.compiled,
    )


# Most that makes sense by far; beyond, memory or patience would end before the search does.
_LIMITS = {"trials": (1, 100_000), "final_seeds": (0, 1000), "sampler_seed": (0, 2**32 - 1)}


def _check(request: TuneRequest) -> None:
    for name, (low, high) in _LIMITS.items():
        value = getattr(request, name)
        if not low <= value <= high:
            raise UserError(f"--{name.replace('_', '-')} is from {low:,} to {high:,}, not {value}")
    objectives = len(Objective(request.objective).directions)
    check_sampler(request.sampler, objectives=objectives)
    check_pruner(_pruner(request), objectives=objectives)
    if request.study:
        check_name(request.study)


def _pruner(request: TuneRequest) -> str:
    return request.pruner or ("none" if Objective(request.objective).cost else "median")


def _check_objective(name: str, tasks: Sequence[str]) -> None:
    if name not in ("mean", *COSTS, *tasks):
        raise unknown("objective", name, ["mean", *COSTS, *tasks])


def _config(request: TuneRequest, session: Session, cell: Cell, url: str) -> StudyConfig:
    """A head's study; its name is that of the head, or made of the one that was given."""
    workspace = session.workspace
    spec, protocol = workspace.plugins.head(cell.head), session.plan.protocol
    pins = _pins(request.run.settings)
    tasks = workspace.tasks(protocol)
    space = build_space(spec, session.plan.configs[cell.head], protocol, tasks, request.search or DEFAULT_GROUPS, pins)
    size = parse_size(request.match_params) if request.match_params else 0
    widths: tuple[str, ...] = ()
    if size:
        widths = tuple(width_fields(cell, workspace, pins))
        fit_size(cell, cell.config, size, widths, workspace)  # the default, at least, must be possible
        space = space.without([f"{cell.head}.{name}" for name in widths[:1]])
        if not space.dimensions:
            raise empty(cell.head, f"{widths[0]} alone was searched, and --match-params solves it")
    if request.sampler == "grid" and space.grid_size() > GRID_LIMIT:
        raise UserError(
            f"a grid of {space.grid_size():,} points is too large (at most {GRID_LIMIT:,}): narrow --search"
        )
    several = len(session.plan.heads) > 1
    return StudyConfig(
        name=check_name(f"{request.study}-{cell.head}" if request.study and several else request.study or cell.head),
        storage=url,
        cell=cell,
        space=space,
        objective=Objective(request.objective),
        trials=request.trials,
        sampler=request.sampler,
        sampler_seed=request.sampler_seed,
        pruner=_pruner(request),
        size=size,
        widths=widths,
        encoder=request.run.encoder or protocol.encoder,
        data=request.run.data or protocol.data,
    )


def _pins(settings: Sequence[str]) -> list[str]:
    """Dotted names of the fields that `--set` sets."""
    names = []
    for table, value in parse_settings(settings).items():
        names += [f"{table}.{field}" for field in value] if isinstance(value, dict) else [table]
    return names


def describe(tuning: Tuning, config: StudyConfig) -> list[str]:
    """What is about to be searched, a line each."""
    size = f", {config.size:,} parameters ±5 % by {', '.join(config.widths[:1])}" if config.size else ""
    goal = config.objective.quality + (f" against {config.objective.cost}" if config.objective.cost else "")
    sampler = f"sampler {config.sampler} (seed {config.sampler_seed}), pruner {config.pruner}"
    phases = " then ".join(config.cell.protocol.phases)
    return [
        f"{config.head}: study {config.name!r} in {shown(tuning.url)}",
        f"  {config.trials} trials, {sampler}, for {goal}{size};",
        f"  every trial trains {phases} with seed {config.cell.seed} and never sees test",
    ]
