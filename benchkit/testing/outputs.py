"""Checks of what comes out of a head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchkit.features import Pooled, Tokens
from benchkit.head import HeadSpec
from benchkit.task import TaskShape
from benchkit.testing.samples import TASKS, build, each_tensor, features, run
from benchkit.testing.verdict import Failed, check


@check
def shapes(spec: HeadSpec) -> None:
    """Gives (batch, out) for every kind of task, a batch of 1 included.

    At two widths, in training and in eval mode. A head that reads `Tokens` also meets the shortest text, 2 word pieces
    (`[CLS]` and `[SEP]` of an empty one), and the longest, 512.
    """
    for hidden, layers in ((48, 3), (384, 7)):
        head = build(spec, hidden=hidden, layers=layers)
        for training in (True, False):
            head.train(training)
            for shape in TASKS:
                for batch in (1, 7):
                    given = features(spec.reads, shape, batch, hidden=hidden, layers=layers)
                    _expect_shape(run(head, given, shape), shape, batch)
    for shape, time in _lengths(spec):
        _expect_shape(run(build(spec).eval(), features(spec.reads, shape, 1, time=time), shape), shape, 1)


def _lengths(spec: HeadSpec) -> Iterator[tuple[TaskShape, int]]:
    if issubclass(spec.reads, Tokens):
        yield from ((shape, 2) for shape in TASKS)
        yield from ((shape, 512) for shape in (TASKS[0], TASKS[6]))


def _expect_shape(outputs: Tensor, shape: TaskShape, batch: int) -> None:
    if outputs.shape != (batch, shape.out):
        raise Failed(f"{shape.name}: gave {tuple(outputs.shape)}, not ({batch}, {shape.out})")
    if not outputs.is_floating_point():
        raise Failed(f"{shape.name}: gave {outputs.dtype}, not floating-point numbers")
    if not outputs.isfinite().all():
        raise Failed(f"{shape.name}: gave a number that is not finite")


@check
def alone(spec: HeadSpec) -> None:
    """Works for each task alone, without the others."""
    for shape in TASKS:
        try:
            _expect_shape(run(build(spec, tasks=[shape]), features(spec.reads, shape), shape), shape, 3)
        except Failed as found:
            raise Failed(f"with {shape.name} as its only task: {found}") from found


@check
@torch.no_grad()
def scores(spec: HeadSpec) -> None:
    """Keeps a regression's scores inside the task's label range.

    With features a hundred times as small and as large as usual, too.
    """
    head = build(spec).eval()
    for shape in (shape for shape in TASKS if not shape.classes):
        for size in (0.01, 1.0, 100.0):
            outputs = run(head, _scaled(spec, shape, size), shape)
            rounding = 1e-6 * max(abs(shape.low), abs(shape.high), 1)
            low, high = float(outputs.min()), float(outputs.max())
            if not (shape.low - rounding <= low and high <= shape.high + rounding):
                raise Failed(
                    f"{shape.name}: scores from {low:.4g} to {high:.4g} leave the label range, {shape.low:g} to "
                    f"{shape.high:g}; benchkit.blocks.finish keeps them inside"
                )


def _scaled(spec: HeadSpec, shape: TaskShape, size: float) -> Pooled:
    return each_tensor(features(spec.reads, shape, 32), lambda tensor: tensor * size)
