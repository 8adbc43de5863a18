"""A study's trials as plain data, whatever version of Optuna wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
