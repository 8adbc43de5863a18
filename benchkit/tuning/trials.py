"""Trials: what a search has, and who runs which."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from benchkit.tuning.objective import Job
from benchkit.tuning.space import make_pruner, make_sampler
from benchkit.tuning.storage import Storage, quiet

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


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
    reason: str = ""
    note: str = ""
    worker: str = ""
    attempt: int = 1
    curve: tuple[float, ...] = ()

    @property
    def finished(self) -> bool:
        return self.state in FINISHED


def read(frozen: FrozenTrial) -> Trial:
    """A trial as Optuna gives it."""
    attrs = frozen.user_attrs
    pruned = frozen.state.name == "PRUNED"
    values = [attrs["best"]] if pruned and "best" in attrs else frozen.values or []
    return Trial(
        number=frozen.number,
        state=frozen.state.name,
        values=tuple(values),
        params={**frozen.system_attrs.get("fixed_params", {}), **frozen.params},
        config=attrs.get("config", {}),
        scores=attrs.get("scores", {}),
        parameters=attrs.get("parameters", 0),
        seconds=attrs.get("seconds", 0.0),
        reason=attrs.get("reason", ""),
        note=attrs.get("note", ""),
        worker=attrs.get("worker", ""),
        attempt=attrs.get("attempt", 1),
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


def count(trials: Sequence[Trial]) -> Counts:
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


def front(trials: Sequence[Trial]) -> list[Trial]:
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


@dataclass
class Claims:
    """One worker's dealings with a study.

    A trial is handed out under the study's lock, and only while finished and running ones are fewer than asked for.
    Whoever holds that lock first fails the trials whose workers died, and queues their parameters again.

    Attributes:
        token: names this worker, and its lock.
    """

    job: Job
    storage: Storage
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold this worker's lock: its trials are alive."""
        try:
            with self.storage.locks.hold(_lock(self.token)):
                yield
        finally:
            self.storage.locks.forget(_lock(self.token))

    def claim(self) -> optuna.Trial | Literal["wait", "done"]:
        """A trial to run; `wait` while the last ones run elsewhere and may yet fail; `done` when there are enough."""
        with self.storage.locks.hold(study_lock(self.job.study)):
            study = self._study()
            reap(self.job, self.storage, self.token)
            trials = self.trials()
            counts = count(trials)
            if counts.finished >= self.wanted() or given_up(trials, self.job.trials):
                return "done"
            if counts.finished + counts.running >= self.wanted():
                return "wait"
            begun = sum(trial.state != "WAITING" for trial in trials)
            if self.job.sampler == "grid" and not self._queue_next_of_grid(study, trials):
                return "wait" if counts.running else "done"
            study.sampler = make_sampler(self.job.sampler, self.job.sampler_seed, begun)
            trial = study.ask(self.job.space.distributions())
            trial.set_user_attr("worker", self.token)
            return trial

    def finish(self, trial: optuna.Trial, state: str, values: Sequence[float], notes: Mapping[str, Any]) -> bool:
        """Store how a trial ended; False if it was taken from this worker meanwhile, and its result is dropped."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with suppress(UpdateFinishedTrialError):
            for name, value in notes.items():
                trial.set_user_attr(name, value)
            known = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAIL}
            told = trial.study.tell(
                trial, list(values) if state == "COMPLETE" else None, known[state], skip_if_finished=True
            )
            return told.state.name == state
        return False

    def give_back(self, number: int) -> None:
        """Of a trial that was interrupted: fail it and queue its parameters again."""
        study = load(self.job.study, self.storage)
        _lose(study, self.storage, study.get_trials(deepcopy=False)[number], "interrupted")

    def trials(self) -> list[Trial]:
        return [read(each) for each in load(self.job.study, self.storage).get_trials(deepcopy=False)]

    def counts(self) -> Counts:
        return count(self.trials())

    def wanted(self) -> int:
        """Finished trials that end the study: those asked for, or as many as a grid has."""
        if self.job.sampler != "grid":
            return self.job.trials
        return min(self.job.trials, len(grid(self.job)))

    def _study(self) -> optuna.Study:
        study = load(self.job.study, self.storage)
        study.pruner = make_pruner(self.job.pruner, self.job.epochs())
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(self.job.space.default())
        return study

    def _queue_next_of_grid(self, study: optuna.Study, trials: Sequence[Trial]) -> bool:
        """False where every point was tried: one that failed stays failed."""
        if not trials or any(trial.state == "WAITING" for trial in trials):
            return True
        tried = [dict(trial.params) for trial in trials]
        left = next((point for point in grid(self.job) if point not in tried), None)
        if left is not None:
            study.enqueue_trial(left)
        return left is not None


def grid(job: Job) -> list[dict[str, Any]]:
    """The points of a grid, the default first, then in an order drawn by the sampler's seed."""
    import numpy as np

    default = job.space.default()
    points = [point for point in job.space.grid() if point != default]
    order = np.random.default_rng(job.sampler_seed).permutation(len(points))
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


def reap(job: Job, storage: Storage, own: str = "") -> list[int]:
    """Fail running trials whose workers are dead and queue their parameters again; to be called under the study's lock.

    A trial without a worker's name lost it between being made and being named, which happens under that lock.
    """
    study = load(job.study, storage)
    reaped = []
    for frozen in study.get_trials(deepcopy=False):
        trial = read(frozen)
        if trial.state != "RUNNING" or trial.worker == own:
            continue
        if trial.worker and not storage.locks.is_free(_lock(trial.worker)):
            continue
        if _lose(study, storage, frozen, "its worker was killed or lost"):
            reaped.append(trial.number)
            storage.locks.forget(_lock(trial.worker))
    return reaped


def reap_all(job: Job, storage: Storage) -> list[int]:
    """After workers were stopped: leave no trial running that nobody runs."""
    with storage.locks.hold(study_lock(job.study)):
        return reap(job, storage)


def study_lock(study: str) -> str:
    return f"study-{study.replace('/', '_')}"


def load(study: str, storage: Storage) -> optuna.Study:
    import optuna

    quiet()
    return optuna.load_study(study_name=study, storage=storage.optuna)


def _lock(token: str) -> str:
    return f"worker-{token}"


def _lose(study: optuna.Study, storage: Storage, frozen: FrozenTrial, reason: str) -> bool:
    """Fail a running trial and queue its parameters again, so often; False if it has ended meanwhile."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    trial = read(frozen)
    with suppress(UpdateFinishedTrialError):
        storage.optuna.set_trial_user_attr(frozen._trial_id, "reason", reason)
        storage.optuna.set_trial_state_values(frozen._trial_id, TrialState.FAIL)
        if trial.attempt < ATTEMPTS:
            study.enqueue_trial(dict(trial.params), user_attrs={"attempt": trial.attempt + 1, "retry_of": trial.number})
        return True
    return False
