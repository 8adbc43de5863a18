"""Scores a head on a split, and detects a collapsed head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.features import Pooled, Tokens
from benchkit.core.protocol import Phase
from benchkit.core.task import Loss, TaskShape, TaskSpec
from benchkit.training.batches import Corpus, Order, Part


@dataclass(frozen=True)
class PhaseContext:
    """The data and settings that one phase of a cell trains with.

    Attributes:
        constant_losses: by task, the loss of the best constant prediction on train.
        autocast: run the encoder's forward in bf16; weights and optimiser state stay fp32.
        auxiliary: see `HeadSpec.auxiliary`.
        interference: measure after each epoch how the tasks' gradients agree.
        fixed: take steps of a few fixed shapes (`benchkit.training.cuda_graphs`), as `graphs` and `compiled` ask for.
        graphs: capture them as CUDA graphs.
        compiled: hand the encoder's layers to `torch.compile`.
        log: called with each line that a user should see.
    """

    phase: str
    settings: Phase
    tasks: Mapping[str, TaskSpec]
    shapes: Mapping[str, TaskShape]
    losses: Mapping[str, Loss]
    constant_losses: Mapping[str, float]
    corpus: Corpus
    order: Order
    seed: int
    device: torch.device
    auxiliary: Callable[[nn.Module, Pooled, Tensor, Tensor, TaskShape], Tensor] | None = None
    autocast: bool = False
    interference: bool = False
    fixed: bool = False
    graphs: bool = False
    compiled: bool = False
    log: Callable[[str], None] = lambda line: None


_BATCH = 512
_LARGE = 4096  # on a GPU, which 512 vectors do not fill


class Reader(Protocol):
    """Where features come from: a store's table, or a live encoder."""

    def gather(self, rows: Tensor) -> Pooled:
        """Features of inputs: rows (batch, segment) int64 -> (batch, segment, hidden)."""

    def snapshot(self, rows: Tensor) -> Reader:
        """A reader of these rows with the encoder's current weights, without dropout and gradients."""


@dataclass(frozen=True)
class Evaluation:
    """One head on one split.

    Attributes:
        predictions: (n,) class indices or scores in the label range.
        scores: (n,) probability of the predicted class; a regression's prediction.
        value, loss: metric and mean loss; NaN if the split is unlabelled.
    """

    predictions: np.ndarray
    scores: np.ndarray
    value: float
    loss: float


@torch.no_grad()
def evaluate(head: nn.Module, reader: Reader, part: Part, task: TaskSpec, shape: TaskShape, loss: Loss) -> Evaluation:
    """Run the head in eval mode over all examples of a part."""
    head.eval()
    outputs = torch.cat([forward(head, features, shape, count) for features, count in _batches(reader, part.rows)])
    predictions, scores = decide(outputs, shape)
    if part.labels is None:
        return Evaluation(predictions, scores, float("nan"), float("nan"))
    labels = part.labels.to(outputs.device)
    value = task.metric.score(part.labels.numpy(), predictions)
    return Evaluation(predictions, scores, value, float(loss(outputs, labels, shape)))


def _batches(reader: Reader, rows: Tensor) -> Iterator[tuple[Pooled, int]]:
    """The features of all rows (n, segment), and how many examples each part of them has."""
    start, size = 0, _BATCH
    while start == 0 or start < len(rows):
        part = rows[start : start + size]
        features = reader.gather(part)
        yield features, len(part)
        start += size
        if features.pooled.is_cuda and not isinstance(features, Tokens):  # tokens are padded to the batch's longest
            size = _LARGE


def forward(head: nn.Module, features: Pooled, shape: TaskShape, batch: int) -> Tensor:
    """The head's outputs (batch, out) in fp32.

    Raises:
        ValueError: the head returned a result of another shape.
    """
    outputs = head(features, shape.name)
    if not isinstance(outputs, Tensor) or outputs.shape != (batch, shape.out):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"forward(features, {shape.name!r}) must return a tensor ({batch}, {shape.out}), it returned {got}"
        )
    return outputs.float()


def decide(outputs: Tensor, shape: TaskShape) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and scores, both (n,), from outputs (n, out)."""
    if not shape.classes:
        values = outputs[:, 0].double().cpu().numpy()
        return values, values
    probabilities, classes = outputs.softmax(dim=1).max(dim=1)
    return classes.cpu().numpy(), probabilities.double().cpu().numpy()


def collapsed(predictions: np.ndarray, labels: np.ndarray | None, task: TaskSpec) -> str:
    """Why finite predictions are meaningless: all one class, or all one score. Returns "" if they are not.

    Args:
        predictions: (n,).
        labels: (n,), or None if unknown. If all labels are equal, all predictions may be equal too.
    """
    if len(predictions) < 2 or (labels is not None and (labels == labels[0]).all()):
        return ""
    if task.classes:
        first = int(predictions[0])
        return f"{task.name} predicts only class {task.classes[first]!r}" if (predictions == first).all() else ""
    spread = float(np.std(predictions)) / (task.high - task.low)
    return f"{task.name} predicts only {predictions[0]:.3g}" if spread < 1e-4 else ""
