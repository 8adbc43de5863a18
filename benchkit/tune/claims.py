"""Handing out trials so that exactly as many finish as were asked for, however many workers there are and die."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from benchkit.tune.job import Job
from benchkit.tune.samplers import make_pruner, make_sampler
from benchkit.tune.storage import Storage, quiet
from benchkit.tune.trials import Counts, Trial, count, read

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

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
