"""One trial: a cell blind to test, trained with a config that a sampler proposed."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchkit.core.features import Layers, Pooled
from benchkit.core.protocol import Protocol, override
from benchkit.core.rng import global_stream
from benchkit.core.settings import plain
from benchkit.experiment.cell import Cell
from benchkit.experiment.run_cell import Exploration, explore, failed
from benchkit.experiment.workspace import Workspace, build_head, feature_settings
from benchkit.inspect.structure import Probe
from benchkit.training.loop import State
from benchkit.tuning.space import Space, fit_size, nested
from benchkit.turns import own_time

if TYPE_CHECKING:
    import optuna


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


@dataclass(frozen=True)
class Job:
    """One study's search.

    Attributes:
        cell: the default config under the base protocol, with the seed that all trials train with.
        trials: finished trials wanted in all, whoever runs them.
        size: parameters that the head must have, within 5 %; 0 for any.
        widths: the head's fields that may be changed for that, the strongest first; the space is without the first.
    """

    study: str
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
    cache: str

    def epochs(self) -> int:
        """Of a trial, over all phases."""
        protocol = self.cell.protocol
        return sum(protocol.phase(name).epochs for name in protocol.phases)

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        changed: dict[str, Any] = {
            "cell": json.loads(self.cell.to_json()),
            "space": self.space.to_data(),
            "objective": self.objective.name,
        }
        return json.dumps({**values, **changed})

    @staticmethod
    def from_json(text: str) -> Job:
        values = json.loads(text)
        return Job(
            **{
                **values,
                "cell": Cell.from_json(json.dumps(values["cell"])),
                "space": Space.from_data(values["space"]),
                "objective": Objective(values["objective"]),
                "widths": tuple(values["widths"]),
            }
        )


_WARM_UP, _PASSES = 10, 50
_TIME = 24  # word pieces of the made-up sentence, for heads that read them: the three data sets' mean is near


def head_latency(cell: Cell, workspace: Workspace) -> float:
    """Milliseconds that one sentence or pair takes through a cell's head, encoder apart: the mean over tasks of the
    median of 50 forward passes in eval mode, by a monotonic clock. Weights do not matter and are fresh.

    Other work on the machine makes it longer; trials that run beside each other are such work.
    """
    protocol, device = cell.protocol, torch.device(cell.execution.device)
    spec, encoder = workspace.plugins.head(cell.head), workspace.encoder(cell.encoder)
    shapes = [task.shape(joint=protocol.pair_input == "joint") for task in workspace.tasks(protocol)]
    settings = feature_settings(protocol, spec, encoder, cell.execution.precision, device)
    with global_stream(cell.seed, "latency"):
        head = build_head(spec, spec.configure(cell.config), encoder, settings, shapes).to(device).eval()
    layers = len(settings.layers) if issubclass(spec.reads, Layers) else 0
    width = encoder.hidden * (1 if layers else len(settings.layers))
    medians = []
    with torch.inference_mode():
        for shape in shapes:
            example = _moved(Probe(shape.segments, width, layers, batch=1, time=_TIME).features(spec.reads), device)
            medians.append(_median(lambda example=example, name=shape.name: head(example, name), device))  # type: ignore[misc]
    return 1e3 * statistics.mean(medians)


def _moved(features: Pooled, device: torch.device) -> Pooled:
    tensors = {field.name: getattr(features, field.name).to(device) for field in fields(features)}
    return type(features)(**tensors)


def _median(call: Callable[[], object], device: torch.device) -> float:
    """Of the seconds of a call; on a GPU until the device is done."""
    seconds = []
    for _ in range(_WARM_UP + _PASSES):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[_WARM_UP:])


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
