"""`benchkit tune` from request to result: a study a head, each with the same budget, then what tuning bought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchkit.errors import UserError, unknown
from benchkit.plugins import Plugins
from benchkit.protocol import parse_settings
from benchkit.runner.cell import Cell
from benchkit.runner.execute import Emit
from benchkit.runner.request import Request
from benchkit.runner.session import Session
from benchkit.tune.claims import Claims, given_up
from benchkit.tune.final import Final, fresh_seeds, retrain, trial_protocol, write_protocol, write_protocols
from benchkit.tune.groups import DEFAULT_GROUPS, build_space
from benchkit.tune.job import COSTS, Job, Objective
from benchkit.tune.pool import run_workers
from benchkit.tune.samplers import check_pruner, check_sampler
from benchkit.tune.size import fit_size, parse_size, width_fields
from benchkit.tune.space import empty
from benchkit.tune.storage import Storage, absolute, open_storage, shown
from benchkit.tune.studies import About, open_study, parts_of
from benchkit.tune.trials import Trial, best, front

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
class Found:
    """One head's study.

    Attributes:
        problem: why it was ended before it had its trials, or "".
        front: of a study with two objectives, the trials that none beats.
        final: None where it was not asked for, or nothing was found.
    """

    about: About
    trials: tuple[Trial, ...]
    problem: str
    front: tuple[Trial, ...] = ()
    final: Final | None = None

    @property
    def head(self) -> str:
        return self.about.job.cell.head

    @property
    def best(self) -> Trial | None:
        return best(self.trials)


@dataclass
class Tuning:
    """A resolved request: a job a head, with what is loaded for all of them."""

    request: TuneRequest
    session: Session
    jobs: list[About]
    url: str
    opened: Storage | None = None

    @staticmethod
    def open(request: TuneRequest, plugins: Plugins, emit: Emit) -> Tuning:
        """Settle every option; opens no storage yet.

        Raises:
            UserError: something in it is unknown, missing or impossible.
        """
        _check(request)
        run = replace(request.run, seeds=(SEED,), phases=request.run.phases or ("pretrain",))
        session = Session.open(run, plugins, emit)
        out = request.run.out or Path("results/tune") / session.plan.out.name
        session.plan = replace(session.plan, out=out)
        _check_objective(request.objective, session.plan.protocol.tasks)
        url = absolute(request.storage or f"journal:{out / 'studies.journal'}")
        return Tuning(request, session, [_about(request, session, cell, url) for cell in session.cells], url)

    @property
    def storage(self) -> Storage:
        assert self.opened is not None
        return self.opened

    def start(self, emit: Emit) -> None:
        """Open the storage and the studies, and encode what all trials read."""
        self.opened = open_storage(self.url)
        for i, about in enumerate(self.jobs):
            name, note = open_study(self.storage, about)
            self.jobs[i] = replace(about, job=replace(about.job, study=name))
            if note:
                emit({"event": "log", "line": note})
        self.session.encode(self.session.cells)
        for line in self._remarks():
            emit({"event": "log", "line": line})

    def search(self, about: About, emit: Emit, stopped: Callable[[], bool]) -> Found:
        """Bring one study to its number of trials, or as near as it gets."""
        claims = Claims(about.job, self.storage)
        emit({"event": "study", "head": about.job.cell.head, "wanted": claims.wanted(), "counts": claims.counts()})
        run_workers(about.job, self.storage, self.session.workspace, self.session.plan, emit, stopped)
        trials = tuple(claims.trials())
        lines = front(trials) if about.job.objective.cost else []
        return Found(about, trials, given_up(trials, about.job.trials), tuple(lines))

    def conclude(self, found: Found, emit: Emit) -> Found:
        """Write the best config and the default as protocols, train both with fresh seeds, and compare them."""
        if found.best is None:
            return found
        folder, workspace = self.folder(found.about), self.session.workspace
        write_protocols(folder, found.about, found.best, workspace)
        for trial in found.front:
            comment = f"Trial {trial.number}: dev mean {trial.values[0]:.4f} with {trial.parameters:,} parameters."
            protocol = trial_protocol(found.about, trial, workspace)
            write_protocol(folder / "front" / f"trial-{trial.number}.toml", found.about, protocol, comment)
        if not self.request.final_seeds:
            return found
        request = final_request(self.request.run, folder, fresh_seeds(self.request.final_seeds))
        return replace(found, final=retrain(folder, request, workspace.plugins, emit))

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()

    def folder(self, about: About) -> Path:
        return self.session.plan.out / about.job.study

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
        if "finetune" in plan.protocol.phases:
            lines.append("phase finetune trains the encoder in every trial: that is what will take the time")
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


def _check(request: TuneRequest) -> None:
    if request.trials < 1:
        raise UserError(f"--trials is how many trials shall finish, at least 1, not {request.trials}")
    if request.final_seeds < 0:
        raise UserError(f"--final-seeds is at least 0 (0 trains nothing again), not {request.final_seeds}")
    if request.sampler_seed < 0:
        raise UserError(f"--sampler-seed is at least 0, not {request.sampler_seed}")
    objectives = len(Objective(request.objective).directions)
    check_sampler(request.sampler, objectives=objectives)
    check_pruner(_pruner(request), objectives=objectives)


def _pruner(request: TuneRequest) -> str:
    return request.pruner or ("none" if Objective(request.objective).cost else "median")


def _check_objective(name: str, tasks: Sequence[str]) -> None:
    if name not in ("mean", *COSTS, *tasks):
        raise unknown("objective", name, ["mean", *COSTS, *tasks])


def _about(request: TuneRequest, session: Session, cell: Cell, url: str) -> About:
    """A head's job; its study's name is that of the head, or made of the one that was given."""
    workspace = session.workspace
    spec, protocol = workspace.plugins.head(cell.head), session.plan.protocol
    pins = _pins(request.run.settings)
    config = session.plan.configs[cell.head]
    tasks = workspace.tasks(protocol)
    space = build_space(spec, config, protocol, tasks, request.search or DEFAULT_GROUPS, pins)
    size = parse_size(request.match_params) if request.match_params else 0
    widths: tuple[str, ...] = ()
    if size:
        widths = tuple(width_fields(cell, workspace, pins))
        fit_size(cell, cell.config, size, widths, workspace)  # the default, at least, must be possible
        space = space.without([f"{cell.head}.{name}" for name in widths[:1]])
        if not space.dimensions:
            raise empty(cell.head, f"{widths[0]} alone was searched, and --match-params solves it")
    several = len(session.plan.heads) > 1
    job = Job(
        study=f"{request.study}-{cell.head}" if request.study and several else request.study or cell.head,
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
        cache=str(workspace.cache),
    )
    encoder, data = request.run.encoder or protocol.encoder, request.run.data or protocol.data
    return About(job, encoder, data, parts_of(job))


def _pins(settings: Sequence[str]) -> list[str]:
    """Dotted names of the fields that `--set` sets."""
    names = []
    for table, value in parse_settings(settings).items():
        names += [f"{table}.{field}" for field in value] if isinstance(value, dict) else [table]
    return names


def describe(tuning: Tuning, about: About) -> list[str]:
    """What is about to be searched, a line each."""
    job = about.job
    size = f", {job.size:,} parameters ±5 % by {', '.join(job.widths[:1])}" if job.size else ""
    goal = job.objective.quality + (f" against {job.objective.cost}" if job.objective.cost else "")
    sampler = f"sampler {job.sampler} (seed {job.sampler_seed}), pruner {job.pruner}"
    return [
        f"{job.cell.head}: study {job.study!r} in {shown(tuning.url)}",
        f"  {job.trials} trials, {sampler}, for {goal}{size};",
        f"  every trial trains {' then '.join(job.cell.protocol.phases)} with seed {job.cell.seed} and never sees test",
    ]
