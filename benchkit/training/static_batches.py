"""Static batches: the inputs of all steps of an epoch, packed beforehand, in a bucket for each shape of step.

A bucket is one tensor with a row for each step. Every field is 32 bits wide, so that a step's inputs are one copy: word
pieces, rows of a table and classes are integers; scores and the learning rate are the bits of a float.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchkit.encoder.attention import send
from benchkit.encoder.packing import Size
from benchkit.training.batches import Batch
from benchkit.training.evaluation import PhaseContext
from benchkit.training.readers import Source
from benchkit.training.steps import Trained


@dataclass(frozen=True)
class StepShape:
    """What a step looks like; steps of one shape differ in numbers alone.

    Attributes:
        tasks, batches, segments: of each batch its task, examples and inputs an example.
        size: of what the features are made of.
    """

    tasks: tuple[str, ...]
    batches: tuple[int, ...]
    segments: tuple[int, ...]
    size: Size


@dataclass(frozen=True)
class Inputs:
    """A step's inputs, views of its row."""

    fields: Mapping[str, Tensor]
    labels: list[Tensor]
    rate: Tensor


@dataclass(frozen=True)
class StaticBatch:
    """How the inputs of a step of one shape are packed into a row of 32-bit numbers.

    Attributes:
        widths: numbers of each field, in their order; then come the labels of each batch, then the rate.
        whole: of each batch, whether its labels are classes.
    """

    shape: StepShape
    widths: Mapping[str, int]
    whole: tuple[bool, ...]

    @property
    def width(self) -> int:
        return sum(self.widths.values()) + sum(self.shape.batches) + 1

    def pack(self, fields: Mapping[str, np.ndarray], labels: Sequence[Tensor], rates: Sequence[float]) -> Tensor:
        """Fields (step, width), labels (step, batch) and rates of the steps to (step, width) int32."""
        columns = [fields[name] for name in self.widths]
        for whole, each in zip(self.whole, labels, strict=True):
            columns.append(each.int().numpy() if whole else each.float().numpy().view(np.int32))
        columns.append(np.array(rates, np.float32).view(np.int32)[:, None])
        return torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.int32))

    def unpack(self, row: Tensor) -> Inputs:
        """The parts of a row (width,); the inverse of `pack` for one step."""
        sizes = [*self.widths.values(), *self.shape.batches, 1]
        *parts, rate = torch.split(row, sizes)
        fields = dict(zip(self.widths, parts, strict=False))
        raw = parts[len(self.widths) :]
        labels = [
            each.long() if whole else each.view(torch.float32) for whole, each in zip(self.whole, raw, strict=True)
        ]
        return Inputs(fields, labels, rate.view(torch.float32)[0])


@dataclass(frozen=True)
class Bucket:
    """All steps of one shape in an epoch.

    Attributes:
        steps: their numbers, rising.
        inputs: (step, width) int32, on the device.
        labels: of each batch of a step (step, batch), on the CPU.
        results: (step, n) float32, on the device: the losses of all batches, then the outputs (batch, out) of each.
    """

    static: StaticBatch
    steps: Sequence[int]
    inputs: Tensor
    labels: Sequence[Tensor]
    results: Tensor


def build_buckets(
    rounds: Sequence[Sequence[Batch]], rates: Sequence[float], context: PhaseContext, source: Source
) -> tuple[list[StepShape], dict[StepShape, Bucket]]:
    """Sort the steps of an epoch into buckets; returns the shape of every step, and the bucket of every shape."""
    parts = {task: context.corpus.parts[task, "train"] for task in context.tasks}
    rows = [[parts[task].rows[examples] for task, examples in batches] for batches in rounds]
    shapes = [
        StepShape(
            tuple(task for task, _ in batches),
            tuple(len(each) for each in here),
            tuple(each.shape[1] for each in here),
            source.size(torch.cat([each.flatten() for each in here]).numpy()),
        )
        for batches, here in zip(rounds, rows, strict=True)
    ]
    numbers: dict[StepShape, list[int]] = {}
    for step, shape in enumerate(shapes):
        numbers.setdefault(shape, []).append(step)
    buckets = {}
    for shape, steps in numbers.items():
        static = StaticBatch(
            shape, source.widths(shape.size), tuple(bool(context.shapes[task].classes) for task in shape.tasks)
        )
        mine = torch.stack([torch.cat([each.flatten() for each in rows[step]]) for step in steps])
        labels = []
        for place, task in enumerate(shape.tasks):
            of_task = parts[task].labels
            assert of_task is not None
            labels.append(of_task[torch.stack([rounds[step][place][1] for step in steps])])
        packed = static.pack(source.fields(mine.numpy(), shape.size), labels, [rates[step] for step in steps])
        width = sum(
            batch * context.shapes[task].out + 1 for task, batch in zip(shape.tasks, shape.batches, strict=True)
        )
        results = torch.empty(len(steps), width, device=context.device)
        buckets[shape] = Bucket(static, steps, send(packed, context.device), labels, results)
    return shapes, buckets


def results_by_task(buckets: Mapping[StepShape, Bucket], done: int, context: PhaseContext) -> dict[str, Trained]:
    """The results of the first `done` steps by task, in the order of the buckets."""
    found: dict[str, list[Trained]] = {}
    for shape, bucket in buckets.items():
        steps, end = bisect_left(bucket.steps, done), len(shape.tasks)
        for place, (task, batch, labels) in enumerate(zip(shape.tasks, shape.batches, bucket.labels, strict=True)):
            out = context.shapes[task].out
            start, end = end, end + batch * out
            outputs = bucket.results[:steps, start:end].reshape(-1, out)
            found.setdefault(task, []).append(Trained(outputs, labels[:steps].flatten(), bucket.results[:steps, place]))
    return {
        task: Trained(*(torch.cat([getattr(part, name) for part in parts]) for name in ("outputs", "labels", "losses")))
        for task, parts in found.items()
        if any(len(part.losses) for part in parts)
    }
