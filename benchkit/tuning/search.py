"""A search: groups of heads, trials, workers, and what they found."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchkit.core.errors import UserError, unknown
from benchkit.core.head import Choice, HeadSpec, Range
from benchkit.core.plugins import Plugins
from benchkit.core.protocol import Phase, Protocol, parse_settings
from benchkit.core.task import TaskSpec
from benchkit.experiment.cell import Cell
from benchkit.experiment.config import Request
from benchkit.experiment.run_cell import Emit
from benchkit.experiment.session import Session
from benchkit.tuning.final import Final, fresh_seeds, retrain, trial_protocol, write_protocol, write_protocols
from benchkit.tuning.objective import COSTS, Job, Objective
from benchkit.tuning.space import (
    Dimension,
    Space,
    check_pruner,
    check_sampler,
    empty,
    fit_size,
    parse_size,
    width_fields,
)
from benchkit.tuning.storage import Storage, absolute, open_storage, shown
from benchkit.tuning.studies import About, open_study, parts_of
from benchkit.tuning.trials import Claims, Trial, best, front, given_up
from benchkit.tuning.workers import run_workers

# By phase: usual with a frozen encoder, and for fine-tuning one (around Devlin et al. 2018, appendix A.3).
_RATES = {"pretrain": (1e-4, 3e-2), "finetune": (1e-6, 2e-4)}
_BATCHES = {"pretrain": (16, 32, 64, 128), "finetune": (8, 16, 32)}
_DECAY = (1e-4, 0.3)

DEFAULT_GROUPS = ("head", "lr")


def build_space(
    spec: HeadSpec,
    config: Any,
    protocol: Protocol,
    tasks: Sequence[TaskSpec],
    search: Sequence[str],
    pins: Sequence[str],
) -> Space:
    """The fields that `search` names, groups or single fields, without those that are pinned.

    Args:
        config: the head's config with everything that the protocol says; its values are the defaults.
        pins: dotted names of fields that the user has set.

    Raises:
        UserError: a name is unknown, or nothing is left to search.
    """
    groups = _groups(spec, config, protocol, tasks)
    fields = {each.name: each for dimensions in groups.values() for each in dimensions}
    chosen: dict[str, Dimension] = {}
    for name in search:
        if name not in groups and name not in fields:
            raise unknown("search group or field", name, [*groups, *fields])
        chosen |= {each.name: each for each in groups.get(name) or ([fields[name]] if name in fields else [])}
    left = [each for name, each in chosen.items() if name not in pins]
    if not left:
        what = ", ".join(search) or "--search is empty"
        reason = f"{what}: every field is pinned by --set" if chosen else f"{what}: it has no such field"
        raise empty(spec.name, reason if search else what)
    return Space(tuple(left))


def group_names() -> list[str]:
    return ["head", "dropout", *_PROTOCOL]


def _groups(spec: HeadSpec, config: Any, protocol: Protocol, tasks: Sequence[TaskSpec]) -> dict[str, list[Dimension]]:
    head = list(_head(spec, config))
    found = {"head": head, "dropout": [each for each in head if "dropout" in each.name.partition(".")[2]]}
    return {**found, **{name: list(make(protocol, tasks)) for name, make in _PROTOCOL.items()}}


def _head(spec: HeadSpec, config: Any) -> Iterator[Dimension]:
    hints = typing.get_type_hints(spec.config)
    for field in dataclasses.fields(spec.config):
        search, name, value = field.metadata.get("search"), f"{spec.name}.{field.name}", getattr(config, field.name)
        if isinstance(search, Range):
            kind: typing.Literal["int", "float"] = "int" if hints[field.name] is int else "float"
            yield _ranged(name, kind, value, search.low, search.high, log=search.log)
        elif isinstance(search, Choice):
            yield Dimension(name, "choice", _settable(value), choices=tuple(map(_settable, search.values)))


def _ranged(
    name: str, kind: typing.Literal["int", "float"], value: Any, low: float, high: float, log: bool
) -> Dimension:
    """A range that holds the default, wherever the protocol has put it; 0 has no place on a log scale."""
    if log and value <= 0:
        low, log = 0.0, False
    return Dimension(name, kind, value, min(low, value), max(high, value), log)


def _settable(value: Any) -> Any:
    """A choice as Optuna stores it, and as `--set` reads it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return ",".join(map(str, value))


def _phases(protocol: Protocol) -> Iterator[tuple[str, Phase]]:
    for name in protocol.phases:
        yield name, protocol.phase(name)


def _rates(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        yield _ranged(f"{name}.learning_rate", "float", phase.learning_rate, *_RATES[name], log=True)


def _decays(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        yield _ranged(f"{name}.weight_decay", "float", phase.weight_decay, *_DECAY, log=True)


def _batches(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    for name, phase in _phases(protocol):
        sizes = sorted({*_BATCHES[name], phase.batch_size})
        yield Dimension(f"{name}.batch_size", "choice", phase.batch_size, choices=tuple(sizes))


def _schedules(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    choices = typing.get_args(typing.get_type_hints(Phase)["schedule"])
    for name, phase in _phases(protocol):
        yield Dimension(f"{name}.schedule", "choice", phase.schedule, choices=choices)


def _losses(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    """Of tasks that have several; "" leaves it to the head, or else to the task."""
    for task in tasks:
        if len(task.losses) > 1:
            default = protocol.options(task.name).loss
            yield Dimension(
                f"{task.name}.loss", "choice", default, choices=tuple(dict.fromkeys([default, *task.losses]))
            )


def _sampling(protocol: Protocol, tasks: Sequence[TaskSpec]) -> Iterator[Dimension]:
    choices = typing.get_args(typing.get_type_hints(Protocol)["sampling"])
    yield Dimension("sampling", "choice", protocol.sampling, choices=choices)


_PROTOCOL: Mapping[str, Callable[[Protocol, Sequence[TaskSpec]], Iterator[Dimension]]] = {
    "lr": _rates,
    "weight_decay": _decays,
    "batch": _batches,
    "schedule": _schedules,
    "loss": _losses,
    "sampling": _sampling,
}


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
