"""An exported model as an ONNX graph."""

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
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchkit.core.errors import UserError
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.encoder.bert import Layer, MiniBert, activate
from benchkit.encoder.encoder import Encoder
from benchkit.predict.model import Model, number_inputs

_FAR = -1e9  # added to a padding's attention before the softmax


class Graph(nn.Module):
    """`forward(input_ids, attention_mask, …) -> (batch, classes)` probabilities, or (batch, 1) scores.

    All inputs are (batch, time), int64. A pair encoded apart has two more, `input_ids_2` and `attention_mask_2`; one
    encoded jointly has `token_type_ids`. Float32 throughout.
    """

    def __init__(self, model: Model, task: str) -> None:
        super().__init__()
        self.encoder: Encoder = model.encoder
        self.bert, self.head = model.encoder.model, model.head
        self.shape, self.settings = model.format(task).shape, model.settings
        self.layers = model.encoder.check(model.settings.pooling, model.settings.layers)
        self.pair = len(model.format(task).texts) == 2
        self.joint = self.pair and self.shape.segments == 1

    def inputs(self) -> list[str]:
        """Names of the arguments, in order."""
        first = ["input_ids", "attention_mask"]
        if not self.pair:
            return first
        return [*first, "token_type_ids"] if self.joint else [*first, "input_ids_2", "attention_mask_2"]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *more: Tensor) -> Tensor:
        segments = more[0] if self.joint else torch.zeros_like(input_ids)
        sides = [(input_ids, attention_mask, segments)]
        if self.pair and not self.joint:
            sides.append((more[0], more[1], torch.zeros_like(more[0])))
        features = self._features([self._vectors(*side) for side in sides], torch.stack([side[1] for side in sides], 1))
        outputs: Tensor = self.head(features, self.shape.name).float()
        return outputs.softmax(dim=1) if self.shape.classes else outputs

    def _features(self, sides: Sequence[tuple[Tensor, Tensor]], mask: Tensor) -> Pooled:
        """The segments of an example beside each other."""
        pooled, tokens = (torch.stack(each, 1) for each in zip(*sides, strict=True))
        if self.settings.apart:
            return Layers.split(pooled, self.settings.apart)
        return Tokens(pooled, tokens, mask.bool()) if self.settings.reads == "tokens" else Pooled(pooled)

    def _vectors(self, ids: Tensor, mask: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Of one sentence or joint pair an example: pooled (batch, width), and its tokens (batch, time, width)."""
        states = _states(self.bert, ids, mask, segments, max(self.layers))
        parts = [_pool(states[layer], mask, self.settings.pooling) for layer in self.layers]
        if self.settings.pooling == "pooler":
            assert self.bert.pooler is not None
            parts = [self.bert.pooler(parts[0]).tanh()]
        tokens = torch.cat([states[layer] for layer in self.layers], dim=-1) * mask[..., None]
        return torch.cat(parts, dim=-1), tokens


def _states(bert: MiniBert, ids: Tensor, mask: Tensor, segments: Tensor, top: int) -> list[Tensor]:
    """Hidden states (batch, time, hidden) of the embeddings and of each layer up to `top`."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    x = bert.norm(bert.word(ids) + bert.position(positions) + bert.segment(segments))
    far = (1.0 - mask[:, None, None, :].float()) * _FAR
    states = [x]
    for layer in list(bert.layers)[:top]:
        assert isinstance(layer, Layer)
        states.append(_layer(layer, states[-1], far))
    return states


def _layer(layer: Layer, x: Tensor, far: Tensor) -> Tensor:
    batch, time, hidden = x.shape
    qkv = layer.qkv(x).view(batch, time, 3, layer.heads, hidden // layer.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # batch heads time dim
    weights = (q @ k.transpose(-1, -2) / (hidden // layer.heads) ** 0.5 + far).softmax(dim=-1)
    mixed = (weights @ v).transpose(1, 2).reshape(batch, time, hidden)
    x = layer.norm1(layer.out(mixed) + x)
    return layer.norm2(layer.down(activate(layer.up(x), layer.activation)) + x)  # type: ignore[no-any-return]


def _pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(batch, time, hidden) to (batch, hidden)."""
    if pooling in ("cls", "pooler"):
        return states[:, 0]
    real = mask[..., None].float()
    if pooling == "max":
        return (states + (1.0 - real) * _FAR).amax(dim=1)
    return (states * real).sum(dim=1) / real.sum(dim=1)


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
    for task in model.tasks:
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
        with _quiet():
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
        inputs, rows = number_inputs(examples, graph.shape.segments)
        wanted = model.outputs(task, model.table(inputs), rows)
        arrays = {name: value.numpy() for name, value in feed(graph, texts).items()}
        got = torch.from_numpy(session.run(None, arrays)[0])
        largest = max(largest, float((got - wanted).abs().max()))
    return largest


def _padded(graph: Graph, inputs: Sequence[tuple[str, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and segments, (batch, time)."""
    tokenized = graph.encoder.tokenize(inputs, graph.settings.max_length)
    mask = torch.ones_like(tokenized.ids)
    ids, real, segments = (
        pad_sequence(list(torch.split(each.long(), tokenized.lengths.tolist())), batch_first=True)
        for each in (tokenized.ids, mask, tokenized.segments)
    )
    return ids, real, segments


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings, logs, and the whole graphs that the exporter prints where its first way fails."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
