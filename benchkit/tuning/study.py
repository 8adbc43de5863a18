"""Studies: the goal of a search, its trials, and the workers that run them."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from benchkit.core.errors import UserError, unknown
from benchkit.core.settings import parse, plain
from benchkit.experiment.cell import Cell
from benchkit.tuning.space import COSTS, Space, make_pruner, make_sampler
from benchkit.tuning.storage import Storage, damage_is_one_line, shown

_NAME = re.compile(r"\w[\w.-]{0,99}")


def check_name(name: str) -> str:
    """Check the name of a study, which also names its folder.

    Raises:
        UserError: the name is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"a study's name has up to 100 letters, digits, '.', '_' and '-', not {name[:120]!r}")
    return name


@dataclass(frozen=True)
class StudyConfig:
    """One head's search: everything that a worker needs, and everything that makes its trials comparable.

    Attributes:
        storage: its URL.
        objective: what is maximised on dev: the `mean` over tasks or the metric of a named task. One of `COSTS`
            maximises the mean and minimises a cost.
        cell: the default config under the base protocol, with the seed that all trials train with.
        trials: total number of finished trials wanted, over all workers.
        size: number of parameters that the head must have, within 5 %; 0 for any.
        widths: the head's fields that may be changed to reach `size`, the strongest first; the first is not searched.
        encoder, data: the names that the user gave.
    """

    name: str
    storage: str
    cell: Cell
    space: Space
    objective: str
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

    @property
    def cost(self) -> str:
        """Name of the minimised cost in tables, or ""."""
        return COSTS.get(self.objective, "")

    @property
    def quality(self) -> str:
        """Name of the maximised quantity in tables."""
        return f"dev {'mean' if self.cost else self.objective}"

    def epochs(self) -> int:
        """Number of epochs of a trial, over all phases."""
        protocol = self.cell.protocol
        return sum(protocol.phase(name).epochs for name in protocol.phases)

    def wanted(self) -> int:
        """Number of finished trials that ends the study: those asked for, at most the size of a grid."""
        return min(self.trials, self.space.grid_size()) if self.sampler == "grid" else self.trials

    def given_up(self, trials: Sequence[Trial]) -> str:
        """Why more trials would waste time, or "": the last ones all failed, or as many failed as were asked for."""
        ended = [trial for trial in trials if trial.state in ("COMPLETE", "PRUNED", "FAIL")]
        failed, last = [trial for trial in ended if trial.state == "FAIL"], ended[-_IN_A_ROW:]
        if len(last) == _IN_A_ROW and all(trial.state == "FAIL" for trial in last):
            return f"the last {_IN_A_ROW} trials failed; trial {last[-1].number}: {last[-1].reason}"
        if len(failed) >= max(_IN_A_ROW, self.trials):
            return f"{len(failed)} trials failed; trial {failed[-1].number}: {failed[-1].reason}"
        return ""

    def to_data(self) -> dict[str, Any]:
        """Plain data; `from_data` is the inverse."""
        return {**vars(self), "cell": json.loads(self.cell.to_json()), "space": plain(self.space)["dimensions"]}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> StudyConfig:
        cell = Cell.from_json(json.dumps(data["cell"]))
        space = parse(Space, {"dimensions": data["space"]})
        return StudyConfig(**{**data, "cell": cell, "space": space, "widths": tuple(data["widths"])})

    def parts(self) -> dict[str, Any]:
        """The settings, by their names for users, that two commands must share to work on one study.

        The number of trials and paths are not among them.
        """
        names = {"head": "head", "protocol": "protocol", "tasks": "tasks", "data": "data", "encoder": "encoder"}
        names |= {"engine": "benchkit or torch", "seed": "seed"}
        names |= {"execution": "device, precision, threads, CUDA graphs or compilation"}
        found = {label: self.cell.identity[part] for part, label in names.items()}
        found |= {
            "search space": plain(self.space)["dimensions"],
            "objective": self.objective,
            "sampler": [self.sampler, self.sampler_seed],
            "pruner": self.pruner,
            "size": [self.size, list(self.widths)],
        }
        return json.loads(json.dumps(found))  # type: ignore[no-any-return]  # as what was stored is read


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        state: `COMPLETE`, `PRUNED`, `FAIL`, `RUNNING` or `WAITING`, as Optuna has it.
        values: values of the objectives on dev; for a pruned trial, those of its best epoch.
        params: the values that were drawn.
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
        return self.state in ("COMPLETE", "PRUNED")


def read(frozen: FrozenTrial) -> Trial:
    """A trial as Optuna gives it.

    Raises:
        ValueError, TypeError: its stored data is damaged.
    """
    attrs, state = frozen.user_attrs, frozen.state.name
    values = {
        **{name: attrs[name] for name in (*_KEPT, "worker", "attempt") if name in attrs},
        "number": frozen.number,
        "state": state,
        "values": [attrs["best"]] if state == "PRUNED" and "best" in attrs else frozen.values or [],
        "params": {**frozen.system_attrs.get("fixed_params", {}), **frozen.params},
        "curve": [value for _, value in sorted(frozen.intermediate_values.items())],
    }
    trial: Trial = parse(Trial, values, f"trial {frozen.number}")
    return trial


@dataclass(frozen=True)
class Counts:
    """Progress of a study; `finished` trials are complete or pruned."""

    finished: int
    pruned: int
    failed: int
    running: int
    best: float | None

    @staticmethod
    def of(trials: Sequence[Trial]) -> Counts:
        states, found = Counter(trial.state for trial in trials), best(trials)
        pruned, failed, running = (states[name] for name in ("PRUNED", "FAIL", "RUNNING"))
        return Counts(states["COMPLETE"] + pruned, pruned, failed, running, found.values[0] if found else None)


def best(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest first objective; among equals the earliest. Pruned trials do not count."""
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    return max(complete, key=lambda trial: (trial.values[0], -trial.number), default=None)


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials for which no other is at least as good at a lower cost, or better at the same cost."""
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
_KEPT = ("config", "scores", "parameters", "seconds", "epoch", "reason", "note")  # of a trial, as attributes


@dataclass
class Study:
    """A study as one worker uses it.

    A trial is handed out under the study's lock, while there are fewer finished and running trials than asked for. The
    holder of the lock first fails the trials of dead workers and queues their parameters again.

    Attributes:
        worker: the name of this worker and of its lock.
    """

    config: StudyConfig
    storage: Storage
    worker: str = ""

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold this worker's lock, which shows that its trials are alive."""
        lock = _worker_lock(self.worker)
        try:
            with self.storage.locks.hold(lock):
                yield
        finally:
            self.storage.locks.forget(lock)

    def claim(self) -> optuna.Trial | Literal["wait", "done"]:
        """A trial to run. `wait`: other workers run the last trials, which may still fail. `done`: there are enough."""
        config = self.config
        with self._locked():
            study = self._load()
            study.pruner = make_pruner(config.pruner, config.epochs())
            if not study.get_trials(deepcopy=False):
                study.enqueue_trial(config.space.default())
            self._fail_lost(study)
            trials = self.trials()
            counts = Counts.of(trials)
            if counts.finished >= config.wanted() or config.given_up(trials):
                return "done"
            if counts.finished + counts.running >= config.wanted():
                return "wait"
            # Not what is tried again, nor what was lost before it was drawn: a search goes on as if nobody had died.
            begun = sum(bool(trial.worker) and trial.attempt == 1 for trial in trials)
            if config.sampler == "grid" and not self._queue_next_of_grid(study, trials):
                return "wait" if counts.running else "done"
            study.sampler = make_sampler(config.sampler, config.sampler_seed, begun)
            trial = study.ask({each.name: each.distribution() for each in config.space.dimensions})
            trial.set_user_attr("worker", self.worker)
            return trial

    def finish(self, trial: optuna.Trial, found: Trial) -> bool:
        """Store the result of a trial. If this worker has lost the trial, drops the result and returns False."""
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
        """Fail an interrupted trial and queue its parameters again."""
        study = self._load()
        self._requeue(study, study.get_trials(deepcopy=False)[number], "interrupted")

    def fail_lost(self) -> list[int]:
        """Fail running trials of dead workers and queue their parameters again. Returns the numbers of these trials."""
        with self._locked():
            return self._fail_lost(self._load())

    def trials(self) -> list[Trial]:
        with damage_is_one_line(self.storage, self.config.name):
            space = {each.name: each.distribution() for each in self.config.space.dimensions}
            frozen = self._load().get_trials(deepcopy=False)
            for each in frozen:
                if any(space.get(name) != drawn for name, drawn in each.distributions.items()):
                    raise ValueError(f"trial {each.number} was drawn from another search space")
                if each.state.name == "COMPLETE" and not each.values:
                    raise ValueError(f"trial {each.number} is complete but has no value")
            return [read(each) for each in frozen]

    def counts(self) -> Counts:
        return Counts.of(self.trials())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self.storage.locks.hold(f"study-{self.config.name}"), damage_is_one_line(self.storage, self.config.name):
            yield

    def _load(self) -> optuna.Study:
        return load(self.config.name, self.storage)

    def _fail_lost(self, study: optuna.Study) -> list[int]:
        """A trial without a worker's name belongs to one that died after making the trial, under the study's lock."""
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
        """Fail a running trial and queue its parameters again, a limited number of times. False if it has ended."""
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
        """Returns False if every point was tried; failed points are not repeated."""
        if not trials or any(trial.state == "WAITING" for trial in trials):
            return True
        tried = [dict(trial.params) for trial in trials]
        points = self.config.space.shuffled_grid(self.config.sampler_seed)
        left = next((point for point in points if point not in tried), None)
        if left is not None:
            study.enqueue_trial(left)
        return left is not None


def study_names(storage: Storage) -> list[str]:
    names: list[Any] = optuna.get_all_study_names(storage.optuna)
    return [name for name in names if isinstance(name, str)]  # a damaged journal may have others


def load(name: str, storage: Storage) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage.optuna)


def _worker_lock(worker: str) -> str:
    return f"worker-{worker}"


_ATTRIBUTE = "benchkit"  # of a study: its config


def open_study(storage: Storage, config: StudyConfig) -> tuple[StudyConfig, str]:
    """The study of that name if it has the same settings; else the first usable one of NAME-2, NAME-3, …

    Returns:
        Its config, and a line that says why the study has another name, or "".

    Raises:
        UserError: the named study belongs to another head, or is not one of benchkit's.
    """
    wanted, note = config.name, ""
    with storage.locks.hold("names"):
        known = study_names(storage)
        for number in count(1):
            named = config if number == 1 else replace(config, name=f"{wanted}-{number}")
            if named.name not in known or _is_unfinished(storage, named.name):
                goals: list[Any] = ["maximize", "minimize"][: 2 if config.cost else 1]
                study = optuna.create_study(
                    study_name=named.name, storage=storage.optuna, directions=goals, load_if_exists=True
                )
                study.set_user_attr(_ATTRIBUTE, replace(named, storage="").to_data())
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # "experimental": only what a dashboard writes on its axes
                    study.set_metric_names([config.quality, *[config.cost] * bool(config.cost)])
                return named, note + f": starting study {named.name!r}" if note else ""
            stored = read_config(storage, named.name)
            if config.head != stored.head:
                raise UserError(
                    f"study {named.name!r} is one of head {stored.head!r}, not of {config.head!r}: use another --study"
                )
            theirs = stored.parts()
            changed = [label for label, value in named.parts().items() if theirs.get(label) != value]
            if not changed:
                return named, note + f": going on with study {named.name!r}" if note else ""
            note = note or f"study {wanted!r} was made with another {', '.join(changed)}"
    raise AssertionError("unreachable")


def read_config(storage: Storage, name: str) -> StudyConfig:
    """The config of a study, without its URL, which may hold a password and is known to the reader anyway.

    Raises:
        UserError: there is no such study, it is not one of benchkit's, or it is damaged.
    """
    names = study_names(storage)
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
    """Whether a study was created but not set up, since the process was killed or the disk was full."""
    with damage_is_one_line(storage, name):
        study = load(name, storage)
        return not study.user_attrs and not study.get_trials(deepcopy=False)
