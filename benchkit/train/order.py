"""Which task and which examples each batch holds, and which batches an optimiser step sees.

A function of (seed, phase, epoch) and nothing else: two heads with one seed see the same batches in the same order, and
a resumed epoch is the epoch it would have been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchkit.rng import generator

Batch = tuple[str, Tensor]
"""A task and the indices (batch,) int64 of its training examples."""


@dataclass(frozen=True)
class Order:
    """The order of batches.

    Attributes:
        sizes: training examples a task.
        sampling: see `Protocol.sampling`. Every way gives as many batches an epoch as all tasks have;
            `proportional` sees each example once an epoch, the others draw a task's examples from
            one reshuffled pass after another.
        step: see `Phase.step`; it does not change the batches.
    """

    sizes: Mapping[str, int]
    batch_size: int
    sampling: str
    seed: int
    phase: str
    epochs: int
    step: str = "task"

    def batches(self) -> int:
        """Batches an epoch."""
        return sum(self._batches(size) for size in self.sizes.values())

    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return -(-self.batches() // self._together)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of a 1-based epoch."""
        random = generator(self.seed, "order", self.phase, epoch)
        passes = {name: self._examples(size, random) for name, size in self.sizes.items()}
        for task in self._tasks(epoch, random):
            yield task, next(passes[task])

    def rounds(self, batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
        """An epoch's batches by optimiser step; the last may hold fewer."""
        for start in range(0, len(batches), self._together):
            yield batches[start : start + self._together]

    @property
    def _together(self) -> int:
        return len(self.sizes) if self.step == "round" else 1

    def _batches(self, size: int) -> int:
        return -(-size // self.batch_size)

    def _examples(self, size: int, random: torch.Generator) -> Iterator[Tensor]:
        # A generator of its own, so that a pass drawn later does not depend on which tasks came before.
        own = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=random)))
        while True:
            yield from torch.split(torch.randperm(size, generator=own), self.batch_size)

    def _tasks(self, epoch: int, random: torch.Generator) -> list[str]:
        names = list(self.sizes)
        if self.sampling == "proportional":
            each = [name for name in names for _ in range(self._batches(self.sizes[name]))]
            return [each[i] for i in torch.randperm(len(each), generator=random).tolist()]
        if self.sampling == "round_robin":
            return [names[i % len(names)] for i in range(self.batches())]
        # Annealed (Stickland & Murray 2019, section 4.2): towards equal shares in the last epoch.
        progress = (epoch - 1) / max(1, self.epochs - 1)
        weights = torch.tensor([float(size) for size in self.sizes.values()]) ** (1 - 0.8 * progress)
        drawn = torch.multinomial(weights, self.batches(), replacement=True, generator=random)
        return [names[i] for i in drawn.tolist()]


class OrderHash:
    """A running hash of everything an `Order` gave out; can be stored and taken up again after an epoch."""

    def __init__(self, state: str = "") -> None:
        self.state = state

    def epoch(self, batches: Sequence[Batch]) -> None:
        digest = hashlib.sha256(self.state.encode())
        for task, examples in batches:
            digest.update(task.encode() + b"\0" + examples.numpy().tobytes())
        self.state = digest.hexdigest()[:16]
