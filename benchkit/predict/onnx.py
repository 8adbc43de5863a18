"""ONNX files of a model, a task each, compared with the model before they are trusted."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchkit.errors import UserError
from benchkit.predict.graph import Graph
from benchkit.predict.model import Model, number_inputs

TOLERANCE = 1e-4
_EXTRA = ("onnx", "onnxruntime", "onnxscript")
# Of several lengths, so that a length or a number of rows that the graph took for fixed shows.
_PROBES = (
    "a film",
    "",
    "the old dog saw a young cat under the big tree .",
    "good",
    "it was not as bad as they said , " * 4,
)


def check_installed() -> None:
    """Refuse early where the extra is not installed.

    Raises:
        UserError: it is not.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--onnx needs {', '.join(missing)}: pip install 'benchkit[onnx]'")


def write_onnx(model: Model, folder: Path) -> dict[str, float]:
    """`TASK.onnx` for each task; gives the largest difference to the model over a few texts, by task.

    Raises:
        UserError: the head cannot be written as ONNX, or the file gives other numbers than the model.
    """
    check_installed()
    model = dataclasses.replace(model, settings=dataclasses.replace(model.settings, precision="fp32"))
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for task in model.questions:
        graph = Graph(model, task).eval()
        path = folder / f"{task}.onnx"
        _export(graph, path, model.name, task)
        found[task] = difference(model, graph, path, task)
        if not found[task] <= TOLERANCE:
            raise UserError(
                f"{model.name} cannot be written as ONNX: for {task} the file gives other numbers, by {found[task]:.2g}"
            )
    return found


def _export(graph: Graph, path: Path, name: str, task: str) -> None:
    example = feed(graph, list(_PROBES[:3]))
    batch, time = torch.export.Dim("batch", min=1), torch.export.Dim("time", min=2)
    inputs = tuple(example[each] for each in graph.inputs())
    shapes: list[Any] = [{0: batch, 1: time} for _ in inputs]
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                inputs,
                input_names=graph.inputs(),
                output_names=["probabilities" if graph.shape.classes else "score"],
                dynamic_shapes=(*shapes[:2], tuple(shapes[2:])) if shapes[2:] else tuple(shapes),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        program.save(path)
    except Exception as error:  # the exporter raises what it likes, and so may a head
        raise UserError(f"{name} cannot be written as ONNX, for {task}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """One line of what went wrong first; the exporter wraps it in advice on itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    summary = next((line for line in lines if line.startswith("<class ")), "")
    return f"{summary.partition(': ')[2] or next(iter(lines), type(error).__name__):.200}"


def feed(graph: Graph, texts: Sequence[str]) -> dict[str, Tensor]:
    """Inputs for texts, or for each paired with the next: (batch, time) int64, padded to the longest."""
    if not graph.pair:
        return dict(zip(graph.inputs(), _padded(graph, [(text,) for text in texts])[:2], strict=True))
    others = [*texts[1:], texts[0]]
    if graph.joint:
        return dict(zip(graph.inputs(), _padded(graph, list(zip(texts, others, strict=True))), strict=True))
    ids, mask, _ = _padded(graph, [(text,) for text in [*texts, *others]])
    count = len(texts)
    return dict(zip(graph.inputs(), (ids[:count], mask[:count], ids[count:], mask[count:]), strict=True))


def difference(model: Model, graph: Graph, path: Path, task: str) -> float:
    """The largest difference of the file's numbers to the model's, over all probes together and each alone."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for texts in (list(_PROBES), *([each] for each in _PROBES)):
        examples = list(zip(texts, [*texts[1:], texts[0]], strict=True)) if graph.pair else [(each,) for each in texts]
        inputs, rows = number_inputs(examples, model.joint)
        wanted = model.outputs(task, model.table(inputs), rows)
        arrays = {name: value.numpy() for name, value in feed(graph, texts).items()}
        got = torch.from_numpy(session.run(None, arrays)[0])
        largest = max(largest, float((got - wanted).abs().max()))
    return largest


def _padded(graph: Graph, inputs: Sequence[tuple[str, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and segments, (batch, time)."""
    tokenized = graph.encoder.tokenize(inputs, graph.settings.max_length)
    time = torch.arange(int(tokenized.lengths.max()))
    mask = time < tokenized.lengths[:, None]
    columns = []
    for packed in (tokenized.ids, tokenized.segments):
        padded = torch.zeros(mask.shape, dtype=torch.int64)
        padded[mask] = packed.long()
        columns.append(padded)
    return columns[0], mask.long(), columns[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's loggers, and the whole graphs that it prints where its first way fails."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
