"""How long a head takes for one example: what a search may weigh against quality."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import fields

import torch

from benchkit.describe.probe import Probe
from benchkit.features import Layers, Pooled
from benchkit.rng import global_stream
from benchkit.runner.cell import Cell
from benchkit.runner.workspace import Workspace, build_head, feature_settings

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
