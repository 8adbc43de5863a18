"""One trial: a cell blind to test, trained with a config that a sampler proposed; and its protocol as a file."""

from __future__ import annotations

import json
import math
import secrets
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import optuna
import torch

from benchkit.core.features import Layers
from benchkit.core.protocol import Protocol, override
from benchkit.core.settings import plain
from benchkit.experiment.cell import Cell
from benchkit.experiment.executors import Result
from benchkit.experiment.open_cell import Assembly
from benchkit.experiment.run_cell import Emit, TrialResult, explore, failed
from benchkit.experiment.workspace import Workspace
from benchkit.store.files import write_atomic
from benchkit.testing.contract import features
from benchkit.training.loop import State
from benchkit.tuning.space import COSTS, fit_size
from benchkit.tuning.storage import Storage, open_storage
from benchkit.tuning.study import Study, StudyConfig, Trial


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
            found = run_trial(config, trial, workspace, emit)
        except BaseException:  # Ctrl-C, twice
            study.give_back(trial.number)
            raise
        if not study.finish(trial, found):
            line = f"trial {trial.number} was taken for lost and given to another worker; this result is dropped"
            emit({"event": "log", "line": line})
    values = list(found.values) if found.state == "COMPLETE" else []
    about = {"number": trial.number, "state": found.state, "values": values, "reason": found.reason}
    emit({"event": "trial", **about, "seconds": found.seconds, **asdict(study.counts())})
    return {"state": "ran"}


def storage_of(url: str, workspace: Workspace) -> Storage:
    """The storage, opened once a process."""
    return workspace.once(("storage", url), lambda: open_storage(url))


def run_trial(config: StudyConfig, trial: optuna.Trial, workspace: Workspace, emit: Emit) -> Trial:
    """Train a trial's cell. Whatever goes wrong is a failed trial with its reason; a collapsed head is a result."""
    started, epochs, curve = time.perf_counter(), config.epochs(), list[float]()
    found, cell = Trial(trial.number, "FAIL", params=trial.params), config.cell

    def watch(state: State) -> None:
        """Report an epoch to Optuna, and stop the training where its pruner says so."""
        if state.diverged:
            return
        value = _value(config, _dev_scores(state, state.epoch))
        curve.append(value)
        emit({"event": "step", "number": trial.number, "epoch": len(curve), "epochs": epochs, "value": value})
        if config.cost:  # Optuna prunes with one objective only
            return
        trial.report(value, len(curve))
        if trial.should_prune() and len(curve) < epochs:
            raise optuna.TrialPruned

    try:
        cell = configure(config, trial.params, workspace)
        found = replace(found, config=dict(cell.config))
        result = explore(cell, workspace, watch)
    except optuna.TrialPruned:
        found = replace(found, state="PRUNED", values=(max(curve),))
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        found = replace(found, reason=failed(cell, error).error)
    else:
        found = _ended(found, config, cell, result, workspace)
    return replace(found, seconds=round(time.perf_counter() - started, 3), curve=tuple(curve))


def _ended(trial: Trial, config: StudyConfig, cell: Cell, result: TrialResult, workspace: Workspace) -> Trial:
    """A trial whose training was not stopped."""
    last, parameters = result.states[-1], result.parameters["head"]
    trial = replace(trial, parameters=parameters)
    if last.diverged:
        return replace(trial, reason=last.diverged)
    scores = _dev_scores(last, last.best_epoch)
    values = [_value(config, scores)]
    if not math.isfinite(values[0]):
        return replace(trial, reason=f"the objective is {values[0]}")
    if config.cost:
        values.append(float(parameters) if config.cost == COSTS["pareto"] else head_latency(cell, workspace))
    prefix = f"{last.phase} epoch {last.best_epoch}: "
    collapses = [event.removeprefix(prefix) for event in last.events if event.startswith(prefix)]
    done = replace(trial, state="COMPLETE", values=tuple(values), scores=scores, epoch=last.best_epoch)
    return replace(done, note="; ".join(collapses))


def _dev_scores(state: State, epoch: int) -> dict[str, float]:
    """Dev metric by task after an epoch."""
    return {each["task"]: each["value"] for each in state.curve if (each["epoch"], each["split"]) == (epoch, "dev")}


def _value(config: StudyConfig, scores: Mapping[str, float]) -> float:
    mean = sum(scores.values()) / len(scores) if scores else math.nan
    return scores.get(config.objective, mean)


def configure(config: StudyConfig, params: Mapping[str, Any], workspace: Workspace) -> Cell:
    """The cell of drawn parameters, of the size that the study asks for.

    Raises:
        UserError: the head refuses them, or cannot have that size with them.
    """
    base, protocol = config.cell, _apply(config, params, workspace)
    spec = workspace.plugins.head(base.head)
    own = plain(spec.configure({**base.config, **protocol.head_options.get(base.head, {})}))
    if config.size:
        own = fit_size(replace(base, protocol=protocol), own, config.size, config.widths, workspace)
    return base.trial(own, _with_config(protocol, base.head, own))


def _apply(config: StudyConfig, params: Mapping[str, Any], workspace: Workspace) -> Protocol:
    """The study's protocol with drawn parameters, such as `{"cnn.pool": 2, "sampling": "annealed"}`."""
    values: dict[str, Any] = {}
    for name, value in params.items():
        table, dot, field = name.partition(".")
        if dot:
            values.setdefault(table, {})[field] = value
        else:
            values[table] = value
    return override(config.cell.protocol, values, workspace.plugins.tasks, workspace.plugins.heads)


def _with_config(protocol: Protocol, head: str, config: Mapping[str, Any]) -> Protocol:
    """A protocol that says all of a head's config itself."""
    return replace(protocol, head_options={**protocol.head_options, head: dict(config)})


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
            example = features(spec.reads, shape, 1, time=_TIME, hidden=width, layers=layers)
            moved = replace(example, **{each.name: getattr(example, each.name).to(device) for each in fields(example)})
            seconds = []
            for _ in range(_WARM_UP + _PASSES):
                started = time.perf_counter()
                head(moved, shape.name)
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - started)
            medians.append(statistics.median(seconds[_WARM_UP:]))
    return 1e3 * statistics.mean(medians)


DEFAULT, BEST = "default", "best"


def write_protocols(folder: Path, config: StudyConfig, best: Trial, workspace: Workspace) -> None:
    """`default.toml` and `best.toml`, each all that `benchkit run --protocol` needs."""
    start = configure(config, config.space.default(), workspace).protocol
    _write_protocol(folder / f"{DEFAULT}.toml", config, start, f"What study {config.name!r} started from.")
    comment = f"Trial {best.number} of study {config.name!r}: dev {config.objective} {best.values[0]:.4f}."
    write_trial(folder / f"{BEST}.toml", config, best, comment, workspace)


def write_trial(path: Path, config: StudyConfig, trial: Trial, comment: str, workspace: Workspace) -> None:
    """The protocol of a trial."""
    protocol = _with_config(_apply(config, trial.params, workspace), config.head, trial.config)
    _write_protocol(path, config, protocol, comment)


def _write_protocol(path: Path, config: StudyConfig, protocol: Protocol, comment: str) -> None:
    own = replace(protocol, encoder=config.encoder, data=config.data, heads=(config.head,))
    files = "".join(f" --head-file {Path(file).name}" for file in config.cell.head_files)
    again = f'benchkit run --protocol {path.name}{files} --seeds "{config.cell.seed}," trains it as the trial was.'
    write_atomic(path, write_toml(own, (comment, again)).encode())


def write_toml(protocol: Protocol, comments: tuple[str, ...] = ()) -> str:
    """Every field of a protocol, its name excepted, which is that of the file; `comments` come first."""
    values = plain(protocol)
    del values["name"]
    tables: dict[str, Mapping[str, Any]] = {}
    for name in [name for name, value in values.items() if isinstance(value, Mapping)]:
        table = values.pop(name)
        grouped = all(isinstance(value, Mapping) for value in table.values())  # the options of all tasks, say
        tables |= table if grouped else {name: table}
    lines = [f"# {line}" for line in comments]
    lines += [f"{name} = {_toml(value)}" for name, value in values.items()]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{field} = {_toml(value)}" for field, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if value is None:  # TOML has no null; an optional field reads this as none
        return '"none"'
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, list) else repr(value)
