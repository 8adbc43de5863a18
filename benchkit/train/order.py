"""Which task and which examples each optimiser step sees: a function of (seed, phase, epoch) and nothing else.

So two heads with one seed see the same batches in the same order, and a resumed epoch is the epoch it would have been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchkit.rng import generator


@dataclass(frozen=True)
class Order:
    """The order of batches.

    Attributes:
        sizes: training examples a task.
        sampling: see `Protocol.sampling`. Every way takes as many steps an epoch as all tasks have batches;
            `proportional` sees each example once an epoch, the others draw a task's examples from
            one reshuffled pass after another.
    """

    sizes: Mapping[str, int]
    batch_size: int
    sampling: str
    seed: int
    phase: str
    epochs: int

    def steps(self) -> int:
        """Steps an epoch."""
        return sum(self._batches(size) for size in self.sizes.values())

    def epoch(self, epoch: int) -> Iterator[tuple[str, Tensor]]:
        """(task, example indices (batch,) int64) for each step of a 1-based epoch."""
        random = generator(self.seed, "order", self.phase, epoch)
        passes = {name: self._examples(size, random) for name, size in self.sizes.items()}
        for task in self._tasks(epoch, random):
            yield task, next(passes[task])

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
            return [names[i % len(names)] for i in range(self.steps())]
        # Annealed (Stickland & Murray 2019, section 4.2): towards equal shares in the last epoch.
        progress = (epoch - 1) / max(1, self.epochs - 1)
        weights = torch.tensor([float(size) for size in self.sizes.values()]) ** (1 - 0.8 * progress)
        drawn = torch.multinomial(weights, self.steps(), replacement=True, generator=random)
        return [names[i] for i in drawn.tolist()]


class OrderHash:
    """A running hash of everything an `Order` gave out; can be stored and taken up again after an epoch."""

    def __init__(self, state: str = "") -> None:
        self.state = state

    def epoch(self, batches: list[tuple[str, Tensor]]) -> None:
        digest = hashlib.sha256(self.state.encode())
        for task, examples in batches:
            digest.update(task.encode() + b"\0" + examples.numpy().tobytes())
        self.state = digest.hexdigest()[:16]
