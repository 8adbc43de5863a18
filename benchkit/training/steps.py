"""The optimiser steps of an epoch, one after the other: as the batches come, padded or packed to their own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from benchkit.core.features import Pooled
from benchkit.core.task import TaskShape
from benchkit.nn.losses import multiple_negatives
from benchkit.training.batches import Batch
from benchkit.training.evaluation import PhaseContext, Reader, forward
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import ShadowWeights, gather_together

# Steps between looks at the loss: each look makes a GPU wait.
LOOK = 100

Result = tuple[Tensor, Tensor, Tensor]
"""Of one batch: outputs, labels, loss; without gradients."""


@dataclass(frozen=True)
class Trained:
    """What the batches of one task gave in an epoch, all three in one order; without gradients.

    Attributes:
        outputs: (example, out).
        labels: (example,).
        losses: (batch,).
    """

    outputs: Tensor
    labels: Tensor
    losses: Tensor


class Steps(Protocol):
    def epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        """Take a step for each of `rounds`, at the rate of the same place, and say what they gave, by task.

        Ends early at a loss that is not finite: the epoch's verdict names the task, and the rest would be lost time.
        """

    def close(self) -> None:
        """Let go of whatever was made for the steps of this phase."""


@dataclass(frozen=True)
class PlainSteps:
    """Every step by itself, from its batches to the optimiser."""

    context: PhaseContext
    modules: nn.ModuleDict
    reader: Reader
    optimizer: AdamW

    def epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        kept: dict[str, list[Result]] = {}
        for step, (together, lr) in enumerate(zip(rounds, rates, strict=True)):
            results = take_step(self.context, self.modules, self.reader, self.optimizer, together, lr)
            if self.optimizer.average:
                self.optimizer.average.update()
            for (task, _), result in zip(together, results, strict=True):
                kept.setdefault(task, []).append(result)
            if step % LOOK == 0 and not all(torch.isfinite(loss) for _, _, loss in results):
                break
        return {task: joined(results) for task, results in kept.items()}

    def close(self) -> None:
        pass


def joined(results: Sequence[Result]) -> Trained:
    outputs, labels, losses = (list(column) for column in zip(*results, strict=True))
    return Trained(torch.cat(outputs), torch.cat(labels), torch.stack(losses))


def take_step(
    context: PhaseContext, modules: nn.ModuleDict, reader: Reader, optimizer: AdamW, batches: Sequence[Batch], lr: float
) -> list[Result]:
    """One optimiser step down the sum of the batches' losses, their features by one pass of the encoder."""
    parts = [context.corpus.parts[task, "train"] for task, _ in batches]
    with torch.autocast(context.device.type, torch.bfloat16, enabled=context.autocast):
        rows = [part.rows[examples] for part, (_, examples) in zip(parts, batches, strict=True)]
        if context.settings.r_drop:
            rows = [each.repeat(2, 1) for each in rows]
        features = gather_together(reader, rows)
    labels = []
    for part, (_, examples) in zip(parts, batches, strict=True):
        assert part.labels is not None
        labels.append(part.labels[examples].to(context.device))
    return descend(context, modules["head"], optimizer, [task for task, _ in batches], features, labels, lr)


def descend(
    context: PhaseContext,
    head: nn.Module,
    optimizer: AdamW,
    tasks: Sequence[str],
    features: Sequence[Pooled],
    labels: Sequence[Tensor],
    lr: float | Tensor,
    shadow: ShadowWeights | None = None,
) -> list[Result]:
    """One optimiser step on the sum of the losses of one batch for each of `tasks`.

    Args:
        shadow: the bf16 copies that the encoder computed with. Their gradients are copied to the master weights before
            the step, and the new master weights to the copies after it.
    """
    results, losses = [], []
    passes = 2 if context.settings.r_drop else 1
    for task, given, wanted in zip(tasks, features, labels, strict=True):
        shape, loss = context.shapes[task], context.losses[task]
        read = forward(head, given, shape, len(wanted) * passes)
        both = read.chunk(passes)
        task_loss = sum((loss(each, wanted, shape) for each in both[1:]), loss(both[0], wanted, shape)) / passes
        total = task_loss
        if passes == 2:
            total = total + context.settings.r_drop * disagreement(both[0], both[1], shape)
        if context.auxiliary:
            total = total + context.auxiliary(head, given, read, wanted.repeat(passes), shape)
        if context.settings.ranking and (similar := context.tasks[task].ranks(shape)) is not None:
            ranking = context.settings.ranking * multiple_negatives(given.pooled, (wanted >= similar).repeat(passes))
            total = ranking if context.settings.ranking_only else total + ranking
        losses.append(total)
        results.append((both[0].detach(), wanted, task_loss.detach()))
    optimizer.zero_grad()
    sum(losses[1:], losses[0]).backward()  # type: ignore[no-untyped-call]
    if shadow:
        shadow.collect_gradients()
    if context.settings.clip:
        torch.nn.utils.clip_grad_norm_(optimizer.parameters, context.settings.clip)
    optimizer.step(lr)
    if shadow:
        shadow.refresh()
    return results


def disagreement(a: Tensor, b: Tensor, shape: TaskShape) -> Tensor:
    """How far two outputs (batch, out) of the same examples are apart: (), the mean over the batch."""
    if not shape.classes:
        return ((a - b) / (shape.high - shape.low)).square().mean()
    first, second = a.log_softmax(1), b.log_softmax(1)
    return ((first.exp() - second.exp()) * (first - second)).sum(1).mean() / 2
