"""One trial: from drawn parameters to what they reach on dev."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchkit.protocol import Protocol, override
from benchkit.runner.cell import Cell
from benchkit.runner.execute import explore
from benchkit.runner.outcome import failed
from benchkit.runner.scoring import Exploration
from benchkit.runner.workspace import Workspace
from benchkit.settings import plain
from benchkit.train.loop import State
from benchkit.tune.job import COSTS, Job, Objective
from benchkit.tune.latency import head_latency
from benchkit.tune.size import fit_size
from benchkit.tune.space import nested
from benchkit.turns import own_time

if TYPE_CHECKING:
    import optuna

Report = Callable[[int, int, float], None]
"""Told after each epoch: which it is of how many, and the objective."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: `COMPLETE`, `PRUNED` or `FAIL`, its values, and what is worth keeping of it."""

    state: str
    values: tuple[float, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


class _Pruned(Exception):
    pass


def run_trial(job: Job, trial: optuna.Trial, workspace: Workspace, report: Report) -> Outcome:
    """Train a trial's cell. Whatever goes wrong is a failed trial with its reason; a collapsed head is a result."""
    started = own_time()
    follow = _Follow(job, trial, report)
    cell = job.cell
    notes: dict[str, Any] = {}
    try:
        cell = configure(job, trial.params, workspace)
        notes["config"] = dict(cell.config)
        found = explore(cell, workspace, follow)
    except _Pruned:
        notes |= {"best": max(follow.curve)}
        outcome = Outcome("PRUNED", (), notes)
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        outcome = Outcome("FAIL", (), {**notes, "reason": failed(cell, error).error})
    else:
        outcome = _ended(job.objective, found, notes, partial(_cost, job.objective, cell, found, workspace))
    return replace(outcome, notes={**outcome.notes, "seconds": round(own_time() - started, 3)})


def configure(job: Job, params: Mapping[str, Any], workspace: Workspace) -> Cell:
    """The cell of drawn parameters, of the size that the study asks for.

    Raises:
        UserError: the head refuses them, or cannot have that size with them.
    """
    protocol = apply_params(job.cell, params, workspace)
    spec = workspace.plugins.head(job.cell.head)
    own = protocol.head_options.get(job.cell.head, {})
    config = plain(spec.configure({**job.cell.config, **own}))
    if job.size:
        config = fit_size(replace(job.cell, protocol=protocol), config, job.size, job.widths, workspace)
    return job.cell.trial(config, with_config(protocol, job.cell.head, config))


def apply_params(cell: Cell, params: Mapping[str, Any], workspace: Workspace) -> Protocol:
    return override(cell.protocol, nested(params), workspace.plugins.tasks, workspace.plugins.heads)


def with_config(protocol: Protocol, head: str, config: Mapping[str, Any]) -> Protocol:
    """A protocol that says all of a head's config itself."""
    return replace(protocol, head_options={**protocol.head_options, head: dict(config)})


def _cost(objective: Objective, cell: Cell, found: Exploration, workspace: Workspace) -> float:
    if objective.cost == COSTS["pareto"]:
        return float(found.parameters["head"])
    return head_latency(cell, workspace)


def _ended(objective: Objective, found: Exploration, notes: Mapping[str, Any], cost: Callable[[], float]) -> Outcome:
    last = found.states[-1]
    notes = {**notes, "parameters": found.parameters["head"]}
    if last.diverged:
        return Outcome("FAIL", (), {**notes, "reason": last.diverged})
    kept = dev_scores(last, last.best_epoch)
    value = _value(objective, kept)
    if not math.isfinite(value):
        return Outcome("FAIL", (), {**notes, "reason": f"the objective is {value}"})
    prefix = f"{last.phase} epoch {last.best_epoch}: "
    collapses = [event.removeprefix(prefix) for event in last.events if event.startswith(prefix)]
    notes = {**notes, "scores": kept, "epoch": last.best_epoch, "note": "; ".join(collapses)}
    values = (value, cost()) if objective.cost else (value,)
    return Outcome("COMPLETE", values, notes)


def dev_scores(state: State, epoch: int) -> dict[str, float]:
    """Dev metric by task after an epoch."""
    return {each["task"]: each["value"] for each in state.curve if (each["epoch"], each["split"]) == (epoch, "dev")}


def _value(objective: Objective, scores: Mapping[str, float]) -> float:
    if objective.name in scores:
        return scores[objective.name]
    return sum(scores.values()) / len(scores) if scores else math.nan


class _Follow:
    """Reports each epoch to Optuna, and stops the training where its pruner says so."""

    def __init__(self, job: Job, trial: optuna.Trial, report: Report) -> None:
        self.job, self.trial, self.report = job, trial, report
        self.curve: list[float] = []

    def __call__(self, state: State) -> None:
        if state.diverged:
            return
        value = _value(self.job.objective, dev_scores(state, state.epoch))
        self.curve.append(value)
        self.report(len(self.curve), self.job.epochs(), value)
        if self.job.objective.cost:  # Optuna prunes with one objective only
            return
        self.trial.report(value, len(self.curve))
        if self.trial.should_prune() and len(self.curve) < self.job.epochs():
            raise _Pruned
