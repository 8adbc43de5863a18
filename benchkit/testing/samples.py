"""What the checks build and feed: tasks that no head has heard of, and random features of any level."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchkit.features import Layers, Pooled, Tokens
from benchkit.head import HeadSpec
from benchkit.rng import global_stream
from benchkit.task import TaskShape
from benchkit.testing.verdict import Failed, one_line

HIDDEN = 48
"""Width of the checks' features: small, and like an encoder's a multiple of any usual number of attention heads."""

LAYERS = 3
"""Layers of the checks' `Layers`: as few as the demo encoder has, the embeddings included."""

TASKS = (
    TaskShape("unseen_class", 1, 5),
    TaskShape("unseen_binary", 1, 2),
    TaskShape("unseen-intents", 1, 77),
    TaskShape("unseen_score", 1, 0, -1.0, 1.0),
    TaskShape("unseen_pair_binary", 2, 2),
    TaskShape("unseen_pair_class", 2, 3),
    TaskShape("unseen_pair_score", 2, 0, 0.0, 5.0),
    TaskShape("unseen-joint-score", 1, 0, 10.0, 20.0),
)
"""Classification and regression of a sentence, of a pair encoded apart, and of a pair encoded as one input. Their names
and label ranges are new to every head; some have a hyphen, as names may."""

FEW = (TASKS[0], TASKS[3], TASKS[5], TASKS[6])
"""One task of each kind, for what takes long."""

PAIRS = tuple(shape for shape in TASKS if shape.segments == 2)


def build(
    spec: HeadSpec,
    values: Mapping[str, Any] | None = None,
    *,
    tasks: Sequence[TaskShape] = TASKS,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
    seed: int = 0,
) -> nn.Module:
    """A head with the default config, `values` over it, and initial weights drawn for `seed`.

    Raises:
        Failed: the config is refused or the head's constructor raises.
    """
    given = ", ".join(f"{name}={value}" for name, value in (values or {}).items()) or "the default config"
    try:
        with global_stream(seed, "init"):
            head = spec.build(spec.configure(values or {}), hidden, tasks, layers)
    except (Exception, SystemExit) as error:
        raise Failed(f"building it with {given} raised {one_line(error)}") from error
    if not isinstance(head, nn.Module):
        raise Failed(f"building it gives a {type(head).__name__}, not an nn.Module")
    return head


def features(
    reads: type[Pooled],
    shape: TaskShape,
    batch: int = 3,
    *,
    time: int = 7,
    hidden: int = HIDDEN,
    layers: int = LAYERS,
) -> Pooled:
    """Random features of exactly the level `reads`, the same at every call.

    Of `Tokens`, the first example fills all `time` word pieces; the others have from 2 to `time`, and zeros after them.
    """
    random = torch.Generator().manual_seed(batch)
    if issubclass(reads, Layers):
        return Layers.split(torch.randn(batch, shape.segments, layers * hidden, generator=random), layers)
    pooled = torch.randn(batch, shape.segments, hidden, generator=random)
    if not issubclass(reads, Tokens):
        return Pooled(pooled)
    lengths = torch.randint(2, time + 1, (batch, shape.segments, 1), generator=random)
    lengths[0] = time
    mask = torch.arange(time) < lengths
    tokens = torch.randn(batch, shape.segments, time, hidden, generator=random)
    return Tokens(pooled, tokens * mask.unsqueeze(-1), mask)


def run(head: nn.Module, given: Pooled, shape: TaskShape) -> Tensor:
    """The head's outputs, (batch, out) if it is right; dropout is drawn for seed 0.

    Raises:
        Failed: it raises, or returns something else than a tensor.
    """
    try:
        with global_stream(0, "dropout"):
            outputs = head(given, shape.name)
    except (Exception, SystemExit) as error:
        batch = len(given.pooled)
        raise Failed(f"{shape.name}: forward with a batch of {batch} raised {one_line(error)}") from error
    if not isinstance(outputs, Tensor):
        raise Failed(f"{shape.name}: forward returned a {type(outputs).__name__}, not a tensor")
    return outputs


def each_tensor(given: Pooled, change: Callable[[Tensor], Tensor], *, mask: bool = False) -> Pooled:
    """A copy of features with `change` made to each tensor; to the mask only where asked for."""
    tensors = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    changed = {name: change(tensor) if mask or name != "mask" else tensor for name, tensor in tensors.items()}
    return type(given)(**changed)


def gap(first: Tensor, second: Tensor) -> float:
    """How far outputs are apart: 0 within fp32's rounding, else the largest difference."""
    if first.shape != second.shape:
        raise Failed(f"outputs change their shape, from {tuple(first.shape)} to {tuple(second.shape)}")
    if torch.allclose(first, second, rtol=1e-4, atol=1e-5):
        return 0.0
    return float((first - second).abs().max())
