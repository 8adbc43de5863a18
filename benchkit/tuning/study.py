"""Studies: what is searched for, the trials that there are, and who runs which."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from benchkit.core.errors import UserError, unknown
from benchkit.core.rng import derive
from benchkit.experiment.cell import Cell
from benchkit.tuning.space import Space, digest
from benchkit.tuning.storage import Storage, damage_is_one_line, quiet, shown

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


COSTS = {"pareto": "parameters", "pareto-latency": "latency (ms)"}
"""Objectives that are two, and what they weigh against the mean on dev."""


@dataclass(frozen=True)
class Objective:
    """What is maximised on dev: the `mean` over tasks, one task's metric, or the mean against a cost that is minimised:
    `pareto` the number of the head's parameters, `pareto-latency` its milliseconds for one example.
    """

    name: str = "mean"

    @property
    def cost(self) -> str:
        """What is minimised beside it, as tables name it, or ""."""
        return COSTS.get(self.name, "")

    @property
    def quality(self) -> str:
        """What is maximised, as tables name it."""
        return f"dev {'mean' if self.cost else self.name}"

    @property
    def directions(self) -> list[str]:
        return ["maximize", "minimize"] if self.cost else ["maximize"]


_NAME = re.compile(r"\w[\w.-]{0,99}")
GRID_LIMIT = 100_000


def check_name(name: str) -> str:
    """A study's name, which is that of its folder too.

    Raises:
        UserError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"a study's name has up to 100 letters, digits, '.', '_' and '-', not {name[:120]!r}")
    return name


@dataclass(frozen=True)
class StudyConfig:
    """One head's search: all that a worker must know, and all that makes its trials comparable.

    Attributes:
        name: of the study.
        storage: its URL.
        cell: the default config under the base protocol, with the seed that all trials train with.
        trials: finished trials wanted in all, whoever runs them.
        size: parameters that the head must have, within 5 %; 0 for any.
        widths: the head's fields that may be changed for that, the strongest first; the space is without the first.
        encoder, data: as the user named them.
    """

    name: str
    storage: str
    cell: Cell
    space: Space
    objective: Objective
    trials: int
    sampler: str
    sampler_seed: int
    pruner: str
    size: int
    widths: tuple[str, ...]
    encoder: str
    data: str

    @property
    def head(self) -> str:
        return self.cell.head

    def epochs(self) -> int:
        """Of a trial, over all phases."""
        protocol = self.cell.protocol
        return sum(protocol.phase(name).epochs for name in protocol.phases)

    def wanted(self) -> int:
        """Finished trials that end the study: those asked for, or as many as a grid has."""
        return min(self.trials, self.space.grid_size()) if self.sampler == "grid" else self.trials

    def to_data(self) -> dict[str, Any]:
        """Plain data; `from_data` is the inverse."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        cell = json.loads(self.cell.to_json())
        return {**values, "cell": cell, "space": self.space.to_data(), "objective": self.objective.name}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> StudyConfig:
        changed = {
            "cell": Cell.from_json(json.dumps(data["cell"])),
            "space": Space.from_data(data["space"]),
            "objective": Objective(data["objective"]),
            "widths": tuple(data["widths"]),
        }
        return StudyConfig(**{**data, **changed})

    def parts(self) -> dict[str, str]:
        """Digests of what two commands must agree on to work on one study, by what a user calls it. The number of
        trials is not of it, nor are paths.
        """
        names = {"head": "head", "protocol": "protocol", "tasks": "tasks", "data": "data", "encoder": "encoder"}
        names |= {"engine": "benchkit or torch", "seed": "seed"}
        names |= {"execution": "device, precision, threads, CUDA graphs or compilation"}
        own = {
            "search space": self.space.to_data(),
            "objective": self.objective.name,
            "sampler": [self.sampler, self.sampler_seed],
            "pruner": self.pruner,
            "size": [self.size, list(self.widths)],
        }
        found = {label: self.cell.identity[part] for part, label in names.items()}
        return {label: digest(value) for label, value in {**found, **own}.items()}


_STARTUP = 5  # trials that are never pruned, so that there is a median to be below
SAMPLERS = ("tpe", "random", "cmaes", "qmc", "grid")
PRUNERS = ("none", "median", "hyperband")


def check_sampler(name: str, *, objectives: int) -> None:
    """Raise UserError if there is no such sampler, or it cannot do what is asked."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    if name == "cmaes":
        if objectives > 1:
            raise UserError("--sampler cmaes has one objective; for --objective pareto use tpe, random, qmc or grid")
        if find_spec("cmaes") is None:
            raise UserError("--sampler cmaes takes the package cmaes: pip install 'benchkit[tune]'")


def check_pruner(name: str, *, objectives: int) -> None:
    """Raise UserError if there is no such pruner, or it cannot do what is asked."""
    if name not in PRUNERS:
        raise unknown("pruner", name, PRUNERS)
    if name != "none" and objectives > 1:
        raise UserError(f"--pruner {name} has one objective; with --objective pareto use --pruner none")


def make_sampler(name: str, seed: int, trial: int) -> BaseSampler:
    """A sampler for one trial.

    What it draws depends on `seed`, on how many trials were begun before, and on what these found, not on which
    process asks: workers never draw the same, and a search that was resumed goes on as if it had not been stopped.
    A grid has no sampler of its own: its points are queued.
    """
    from optuna import samplers

    own = derive(seed, "sampler", trial) % 2**32
    makers: Mapping[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=own, constant_liar=True),
        "random": lambda: samplers.RandomSampler(seed=own),
        "grid": lambda: samplers.RandomSampler(seed=own),
        "cmaes": lambda: samplers.CmaEsSampler(seed=own, warn_independent_sampling=False),
        # One sequence for the whole study; its place in it is kept by the storage.
        "qmc": lambda: samplers.QMCSampler(
            seed=seed,
            scramble=True,
            # Before a trial has ended, Optuna 4 knows no space to go through and draws at random.
            independent_sampler=samplers.RandomSampler(seed=own),
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental": their interface may change, their results are checked
        return makers[name]()


def make_pruner(name: str, epochs: int) -> BasePruner:
    """A pruner for trials of so many epochs, over all phases."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=max(1, epochs // 4))
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return pruners.NopPruner()


FINISHED = ("COMPLETE", "PRUNED")


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        state: `COMPLETE`, `PRUNED`, `FAIL`, `RUNNING` or `WAITING`, as Optuna has it.
        values: of the objectives, on dev; of a pruned trial, the best epoch's before it was stopped.
        params: what was drawn.
        config: the head's whole config as it was trained, by field.
        scores: dev metric by task, at the epoch that was kept.
        epoch: the epoch that was kept.
        reason: why it failed.
        curve: the objective after each epoch.
        note: something else worth knowing, such as a task that collapsed.
    """

    number: int
    state: str
    values: tuple[float, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0
    epoch: int = 0
    reason: str = ""
    note: str = ""
    worker: str = ""
    attempt: int = 1
    curve: tuple[float, ...] = ()

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


def read(frozen: FrozenTrial) -> Trial:
    """A trial as Optuna gives it.

    Raises:
        ValueError, TypeError: what is stored of it is damaged.
    """
    attrs = frozen.user_attrs
    pruned = frozen.state.name == "PRUNED"
    values = [attrs["best"]] if pruned and "best" in attrs else frozen.values or []
    return Trial(
        number=frozen.number,
        state=frozen.state.name,
        values=tuple(map(float, values)),
        params={**frozen.system_attrs.get("fixed_params", {}), **frozen.params},
        config=dict(attrs.get("config", {})),
        scores={str(task): float(score) for task, score in dict(attrs.get("scores", {})).items()},
        parameters=int(attrs.get("parameters", 0)),
        seconds=float(attrs.get("seconds", 0.0)),
        epoch=int(attrs.get("epoch", 0)),
        reason=str(attrs.get("reason", "")),
        note=str(attrs.get("note", "")),
        worker=str(attrs.get("worker", "")),
        attempt=int(attrs.get("attempt", 1)),
        curve=tuple(value for _, value in sorted(frozen.intermediate_values.items())),
    )


@dataclass(frozen=True)
class Counts:
    """How far a study is."""

    complete: int
    pruned: int
    failed: int
    running: int
    best: float | None

    @property
    def finished(self) -> int:
        return self.complete + self.pruned


def count_trials(trials: Sequence[Trial]) -> Counts:
    states = [trial.state for trial in trials]
    found = best(trials)
    return Counts(
        complete=states.count("COMPLETE"),
        pruned=states.count("PRUNED"),
        failed=states.count("FAIL"),
        running=states.count("RUNNING"),
        best=found.values[0] if found else None,
    )


def best(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest first objective; of equals the earliest. A pruned one was below others."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    return max(complete, key=lambda trial: (trial.values[0], -trial.number), default=None)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials that no other beats: at least as good at a lower cost, or better at the same."""
    complete = sorted(
        (trial for trial in trials if trial.state == "COMPLETE" and len(trial.values) == 2),
        key=lambda trial: (trial.values[1], -trial.values[0], trial.number),
    )
    kept: list[Trial] = []
    for trial in complete:
        if not kept or trial.values[0] > kept[-1].values[0]:
            kept.append(trial)
    return kept


ATTEMPTS = 3  # for parameters whose worker died: perhaps they take more memory than there is
_IN_A_ROW = 10  # failures without a success between them, after which a study is given up


ATTEMPTS = 3  # for parameters whose worker died: perhaps they take more memory than there is
_IN_A_ROW = 10  # failures without a success between them, after which a study is given up
_KEPT = ("config", "scores", "parameters", "seconds", "epoch", "reason", "note")  # of a trial, as attributes


@dataclass
class Study:
    """A study as one worker uses it.

    A trial is handed out under the study's lock, and only while finished and running ones are fewer than asked for.
    Whoever holds that lock first fails the trials whose workers died, and queues their parameters again.

    Attributes:
        worker: the name of this worker and of its lock.
    """

    config: StudyConfig
    storage: Storage
    worker: str = ""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold this worker's lock: its trials are alive."""
        lock = _worker_lock(self.worker)
        try:
            with self.storage.locks.hold(lock):
                yield
        finally:
            self.storage.locks.forget(lock)

    def claim(self) -> optuna.Trial | Literal["wait", "done"]:
        """A trial to run; `wait` while the last ones run elsewhere and may yet fail; `done` when there are enough."""
        config = self.config
        with self._locked():
            study = self._load()
            study.pruner = make_pruner(config.pruner, config.epochs())
            if not study.get_trials(deepcopy=False):
                study.enqueue_trial(config.space.default())
            self._fail_lost(study)
            trials = self.trials()
            counts = count_trials(trials)
            if counts.finished >= config.wanted() or given_up(trials, config.trials):
                return "done"
            if counts.finished + counts.running >= config.wanted():
                return "wait"
            # Not what is tried again, nor what was lost before it was drawn: a search goes on as if nobody had died.
            begun = sum(bool(trial.worker) and trial.attempt == 1 for trial in trials)
            if config.sampler == "grid" and not self._queue_next_of_grid(study, trials):
                return "wait" if counts.running else "done"
            study.sampler = make_sampler(config.sampler, config.sampler_seed, begun)
            trial = study.ask(config.space.distributions())
            trial.set_user_attr("worker", self.worker)
            return trial

    def finish(self, trial: optuna.Trial, found: Trial) -> bool:
        """Store how a trial ended; False if it was taken from this worker meanwhile, and its result is dropped."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        notes = {name: getattr(found, name) for name in _KEPT if getattr(found, name)}
        if found.state == "PRUNED":
            notes["best"] = found.values[0]
        values = list(found.values) if found.state == "COMPLETE" else None
        with suppress(UpdateFinishedTrialError):
            for name, value in notes.items():
                trial.set_user_attr(name, value)
            told = self._load().tell(trial, values, TrialState[found.state], skip_if_finished=True)
            return told.state.name == found.state
        return False

    def give_back(self, number: int) -> None:
        """Of a trial that was interrupted: fail it and queue its parameters again."""
        study = self._load()
        self._requeue(study, study.get_trials(deepcopy=False)[number], "interrupted")

    def fail_lost(self) -> list[int]:
        """Fail running trials whose workers are gone and queue their parameters again; their numbers."""
        with self._locked():
            return self._fail_lost(self._load())

    def trials(self) -> list[Trial]:
        with damage_is_one_line(self.storage, self.config.name):
            return [read(each) for each in self._load().get_trials(deepcopy=False)]

    def counts(self) -> Counts:
        return count_trials(self.trials())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.storage.locks.hold(f"study-{self.config.name}"), damage_is_one_line(self.storage, self.config.name):
            yield

    def _load(self) -> optuna.Study:
        return load(self.config.name, self.storage)

    def _fail_lost(self, study: optuna.Study) -> list[int]:
        """A trial without a worker's name lost it between being made and being named, under the study's lock."""
        lost = []
        for frozen in study.get_trials(deepcopy=False):
            trial = read(frozen)
            if trial.state != "RUNNING" or (trial.worker and trial.worker == self.worker):
                continue
            if trial.worker and not self.storage.locks.is_free(_worker_lock(trial.worker)):
                continue
            if self._requeue(study, frozen, "its worker was killed or lost"):
                lost.append(trial.number)
                self.storage.locks.forget(_worker_lock(trial.worker))
        return lost

    def _requeue(self, study: optuna.Study, frozen: FrozenTrial, reason: str) -> bool:
        """Fail a running trial and queue its parameters again, so often; False if it has ended meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        trial = read(frozen)
        with suppress(UpdateFinishedTrialError):
            self.storage.optuna.set_trial_user_attr(frozen._trial_id, "reason", reason)
            self.storage.optuna.set_trial_state_values(frozen._trial_id, TrialState.FAIL)
            # Without a worker's name it was not handed out: that is no attempt, and its parameters are not all drawn.
            params = trial.params if trial.worker else frozen.system_attrs.get("fixed_params")
            attempt = trial.attempt + bool(trial.worker)
            if params and attempt <= ATTEMPTS:
                study.enqueue_trial(dict(params), user_attrs={"attempt": attempt, "retry_of": trial.number})
            return True
        return False

    def _queue_next_of_grid(self, study: optuna.Study, trials: Sequence[Trial]) -> bool:
        """False where every point was tried: one that failed stays failed."""
        if not trials or any(trial.state == "WAITING" for trial in trials):
            return True
        tried = [dict(trial.params) for trial in trials]
        left = next((point for point in grid(self.config) if point not in tried), None)
        if left is not None:
            study.enqueue_trial(left)
        return left is not None


def grid(config: StudyConfig) -> list[dict[str, Any]]:
    """The points of a grid, the default first, then in an order drawn by the sampler's seed."""
    import numpy as np

    default = config.space.default()
    points = [point for point in config.space.grid() if point != default]
    order = np.random.default_rng(config.sampler_seed).permutation(len(points))
    return [default, *(points[i] for i in order)]


def given_up(trials: Sequence[Trial], wanted: int) -> str:
    """Why more trials would be lost time, or "": the last ones all failed, or more failed than were asked for."""
    ended = [trial for trial in trials if trial.state in ("COMPLETE", "PRUNED", "FAIL")]
    failed = [trial for trial in ended if trial.state == "FAIL"]
    last = ended[-_IN_A_ROW:]
    if len(last) == _IN_A_ROW and all(trial.state == "FAIL" for trial in last):
        return f"the last {_IN_A_ROW} trials failed; trial {last[-1].number}: {last[-1].reason}"
    if len(failed) >= max(_IN_A_ROW, wanted):
        return f"{len(failed)} trials failed; trial {failed[-1].number}: {failed[-1].reason}"
    return ""


def load(name: str, storage: Storage) -> optuna.Study:
    import optuna

    quiet()
    return optuna.load_study(study_name=name, storage=storage.optuna)


def _worker_lock(worker: str) -> str:
    return f"worker-{worker}"


_ATTRIBUTE = "benchkit"  # of a study: its config


def open_study(storage: Storage, config: StudyConfig) -> tuple[StudyConfig, str]:
    """The study of that name, if it searches for the same; else the first free one of NAME-2, NAME-3, …

    Returns:
        Its config, and a line that says why it is another one than was named, or "".

    Raises:
        UserError: the name is that of another head's study, or of one that is not benchkit's.
    """
    import optuna

    wanted, note = config.name, ""
    with storage.locks.hold("names"):
        known = set(optuna.get_all_study_names(storage.optuna))
        for number in count(1):
            named = config if number == 1 else replace(config, name=f"{wanted}-{number}")
            if named.name not in known or _is_unfinished(storage, named.name):
                _create(storage, named)
                return named, note + f": starting study {named.name!r}" if note else ""
            changed = _changed(named, read_config(storage, named.name))
            if not changed:
                return named, note + f": going on with study {named.name!r}" if note else ""
            note = note or f"study {wanted!r} was made with another {', '.join(changed)}"
    raise AssertionError("unreachable")


def read_config(storage: Storage, name: str) -> StudyConfig:
    """What a study searches for; without its URL, which may hold a password: who reads this has opened the storage.

    Raises:
        UserError: there is no such study, it is not one of benchkit's, or it is damaged.
    """
    import optuna

    names = optuna.get_all_study_names(storage.optuna)
    if name not in names:
        raise unknown(f"study in {shown(storage.url)},", name, names)
    with damage_is_one_line(storage, name):
        attrs = load(name, storage).user_attrs
        if _ATTRIBUTE not in attrs:
            raise UserError(
                f"study {name!r} in {shown(storage.url)} was not made by benchkit tune: use another --study"
            )
        return StudyConfig.from_data(attrs[_ATTRIBUTE])


def _is_unfinished(storage: Storage, name: str) -> bool:
    """Whether a study was made and no more: its maker was killed, or the disk was full."""
    with damage_is_one_line(storage, name):
        study = load(name, storage)
        return not study.user_attrs and not study.get_trials(deepcopy=False)


def _create(storage: Storage, config: StudyConfig) -> None:
    import optuna

    objective = config.objective
    directions: Any = objective.directions
    study = optuna.create_study(
        study_name=config.name, storage=storage.optuna, directions=directions, load_if_exists=True
    )
    study.set_user_attr(_ATTRIBUTE, replace(config, storage="").to_data())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental": only what a dashboard writes on its axes
        study.set_metric_names([objective.quality, *[objective.cost] * bool(objective.cost)])


def _changed(mine: StudyConfig, stored: StudyConfig) -> list[str]:
    if mine.head != stored.head:
        raise UserError(
            f"study {stored.name!r} is one of head {stored.head!r}, not of {mine.head!r}: use another --study"
        )
    theirs = stored.parts()
    return [label for label, value in mine.parts().items() if theirs.get(label) != value]
