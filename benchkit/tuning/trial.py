"""One trial: a cell blind to test, trained with a config that a sampler proposed."""

from __future__ import annotations

import math
import secrets
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch

from benchkit.core.features import Layers, Pooled
from benchkit.core.protocol import Protocol, override
from benchkit.core.settings import plain
from benchkit.experiment.cell import Cell
from benchkit.experiment.executors import Result
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.run_cell import Emit, TrialResult, explore, failed
from benchkit.experiment.workspace import Workspace
from benchkit.testing import features
from benchkit.training.loop import State
from benchkit.tuning.space import fit_size, nested
from benchkit.tuning.storage import Storage, open_storage
from benchkit.tuning.study import COSTS, Objective, Study, StudyConfig, Trial

if TYPE_CHECKING:
    import optuna

Report = Callable[[int, int, float], None]
"""Called after each epoch: which it is of how many, and the objective."""


def run_next(payload: Mapping[str, Any], workspace: Workspace, emit: Emit) -> Result:
    """The next trial of a study, as a job of an executor; `state` is `wait` or `done` where there is none to run."""
    config = StudyConfig.from_data(payload)
    study = Study(config, storage_of(config.storage, workspace), workspace.once("worker", lambda: secrets.token_hex(8)))
    with study.working():
        trial = study.claim()
        if isinstance(trial, str):
            return {"state": trial}
        emit({"event": "begin", "number": trial.number})
        try:
            found = run_trial(config, trial, workspace, _reporter(trial.number, emit))
        except BaseException:  # Ctrl-C, twice
            study.give_back(trial.number)
            raise
        if not study.finish(trial, found):
            line = f"trial {trial.number} was taken for lost and given to another worker; this result is dropped"
            emit({"event": "log", "line": line})
    counts = study.counts()
    numbers = {name: getattr(counts, name) for name in ("finished", "pruned", "failed", "best")}
    values = list(found.values) if found.state == "COMPLETE" else []
    about = {"number": trial.number, "state": found.state, "values": values, "reason": found.reason}
    emit({"event": "trial", **about, "seconds": found.seconds, **numbers})
    return {"state": "ran"}


def storage_of(url: str, workspace: Workspace) -> Storage:
    """The storage, opened once a process."""
    return workspace.once(("storage", url), lambda: open_storage(url))


def _reporter(number: int, emit: Emit) -> Report:
    def report(epoch: int, epochs: int, value: float) -> None:
        emit({"event": "step", "number": number, "epoch": epoch, "epochs": epochs, "value": value})

    return report


def run_trial(config: StudyConfig, trial: optuna.Trial, workspace: Workspace, report: Report) -> Trial:
    """Train a trial's cell. Whatever goes wrong is a failed trial with its reason; a collapsed head is a result."""
    from optuna import TrialPruned

    started = time.perf_counter()
    cell, curve = config.cell, list[float]()
    found = Trial(trial.number, "FAIL", params=trial.params)
    epochs = config.epochs()

    def watch(state: State) -> None:
        """Report an epoch to Optuna, and stop the training where its pruner says so."""
        if state.diverged:
            return
        value = _value(config.objective, dev_scores(state, state.epoch))
        curve.append(value)
        report(len(curve), epochs, value)
        if config.objective.cost:  # Optuna prunes with one objective only
            return
        trial.report(value, len(curve))
        if trial.should_prune() and len(curve) < epochs:
            raise TrialPruned

    try:
        cell = configure(config, trial.params, workspace)
        found = replace(found, config=dict(cell.config))
        result = explore(cell, workspace, watch)
    except TrialPruned:
        found = replace(found, state="PRUNED", values=(max(curve),))
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        found = replace(found, reason=failed(cell, error).error)
    else:
        found = _ended(found, config.objective, result, lambda: _cost(config.objective, cell, result, workspace))
    return replace(found, seconds=round(time.perf_counter() - started, 3), curve=tuple(curve))


def configure(config: StudyConfig, params: Mapping[str, Any], workspace: Workspace) -> Cell:
    """The cell of drawn parameters, of the size that the study asks for.

    Raises:
        UserError: the head refuses them, or cannot have that size with them.
    """
    base = config.cell
    protocol = apply_params(base, params, workspace)
    spec = workspace.plugins.head(base.head)
    own = plain(spec.configure({**base.config, **protocol.head_options.get(base.head, {})}))
    if config.size:
        own = fit_size(replace(base, protocol=protocol), own, config.size, config.widths, workspace)
    return base.trial(own, with_config(protocol, base.head, own))


def apply_params(cell: Cell, params: Mapping[str, Any], workspace: Workspace) -> Protocol:
    return override(cell.protocol, nested(params), workspace.plugins.tasks, workspace.plugins.heads)


def with_config(protocol: Protocol, head: str, config: Mapping[str, Any]) -> Protocol:
    """A protocol that says all of a head's config itself."""
    return replace(protocol, head_options={**protocol.head_options, head: dict(config)})


def _ended(trial: Trial, objective: Objective, result: TrialResult, cost: Callable[[], float]) -> Trial:
    last = result.states[-1]
    trial = replace(trial, parameters=result.parameters["head"])
    if last.diverged:
        return replace(trial, reason=last.diverged)
    scores = dev_scores(last, last.best_epoch)
    value = _value(objective, scores)
    if not math.isfinite(value):
        return replace(trial, reason=f"the objective is {value}")
    prefix = f"{last.phase} epoch {last.best_epoch}: "
    collapses = [event.removeprefix(prefix) for event in last.events if event.startswith(prefix)]
    return replace(
        trial,
        state="COMPLETE",
        values=(value, cost()) if objective.cost else (value,),
        scores=scores,
        epoch=last.best_epoch,
        note="; ".join(collapses),
    )


def dev_scores(state: State, epoch: int) -> dict[str, float]:
    """Dev metric by task after an epoch."""
    return {each["task"]: each["value"] for each in state.curve if (each["epoch"], each["split"]) == (epoch, "dev")}


def _value(objective: Objective, scores: Mapping[str, float]) -> float:
    if objective.name in scores:
        return scores[objective.name]
    return sum(scores.values()) / len(scores) if scores else math.nan


def _cost(objective: Objective, cell: Cell, result: TrialResult, workspace: Workspace) -> float:
    if objective.cost == COSTS["pareto"]:
        return float(result.parameters["head"])
    return head_latency(cell, workspace)


_WARM_UP, _PASSES = 10, 50
_TIME = 24  # word pieces of the made-up sentence, for heads that read them: the three data sets' mean is near


def head_latency(cell: Cell, workspace: Workspace) -> float:
    """Milliseconds that one sentence or pair takes through a cell's head, encoder apart: the mean over tasks of the
    median of 50 forward passes in eval mode, by a monotonic clock. Weights do not matter and are fresh.

    Other work on the machine makes it longer; trials that run at the same time are such work.
    """
    assembly, device = Assembly.of_cell(cell, workspace), torch.device(cell.execution.device)
    spec, settings, encoder = assembly.spec, assembly.features, assembly.encoder
    head = assembly.build(cell.seed).to(device).eval()
    layers = len(settings.layers) if issubclass(spec.reads, Layers) else 0
    width = encoder.hidden * (1 if layers else len(settings.layers))
    medians = []
    with torch.inference_mode():
        for shape in assembly.shapes:
            example = _moved(features(spec.reads, shape, 1, time=_TIME, hidden=width, layers=layers), device)
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
