"""Batches: which examples of which task each one holds, and the rows of their texts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchkit.core.rng import generator
from benchkit.core.task import TaskSpec

if TYPE_CHECKING:
    from benchkit.data import Split


@dataclass(frozen=True)
class Part:
    """One split of one task.

    Attributes:
        rows: (n, segment) int64, into `Corpus.inputs`.
        labels: (n,), int64 classes or float32 scores; None where the split is unlabelled.
    """

    rows: Tensor
    labels: Tensor | None
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, count: int) -> Part:
        """Its first examples."""
        return Part(self.rows[:count], None if self.labels is None else self.labels[:count], self.ids[:count])


@dataclass(frozen=True)
class Corpus:
    """All tasks' splits over one list of distinct inputs, so that a text is encoded once however often it occurs.

    Attributes:
        inputs: a sentence `(a,)`, or a pair encoded jointly `(a, b)`.
        parts: by (task, split).
    """

    inputs: tuple[tuple[str, ...], ...]
    parts: Mapping[tuple[str, str], Part]

    def rows(self, split: str) -> Tensor:
        """Sorted distinct rows of one split over all tasks: (n,) int64."""
        found = [part.rows.flatten() for (_, name), part in self.parts.items() if name == split]
        return torch.unique(torch.cat(found)) if found else torch.empty(0, dtype=torch.int64)

    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for _, split in self.parts))

    def only(self, splits: Sequence[str]) -> Corpus:
        """The same inputs, so that stored features still fit, with the rows and labels of these splits alone."""
        return Corpus(self.inputs, {key: part for key, part in self.parts.items() if key[1] in splits})


def build_corpus(
    data: Mapping[str, Mapping[str, Split]], tasks: Sequence[TaskSpec], *, joint: Collection[str]
) -> Corpus:
    """Number the distinct inputs of all splits, in order of appearance.

    Args:
        joint: names of the tasks whose pairs are encoded as one input.
    """
    index: dict[tuple[str, ...], int] = {}
    parts = {}
    for task in tasks:
        for name, split in data[task.name].items():
            rows = [
                [
                    index.setdefault(each, len(index))
                    for each in ([texts] if task.name in joint else [(text,) for text in texts])
                ]
                for texts in split.texts
            ]
            labels = _labels(split.labels, task) if split.labelled else None
            parts[task.name, name] = Part(torch.tensor(rows, dtype=torch.int64), labels, tuple(split.ids))
    return Corpus(tuple(index), parts)


def _labels(labels: np.ndarray, task: TaskSpec) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64 if task.classes else np.float32))


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
        power = {"by_size": 1.0, "square_root": 0.5, "annealed": 1 - 0.8 * progress}[self.sampling]
        weights = torch.tensor([float(size) for size in self.sizes.values()]) ** power
        drawn = torch.multinomial(weights, self.batches(), replacement=True, generator=random)
        return [names[i] for i in drawn.tolist()]


def hash_order(before: str, batches: Sequence[Batch]) -> str:
    """A running hash of the batches of all epochs: that of the epochs before, and one epoch more."""
    digest = hashlib.sha256(before.encode())
    for task, examples in batches:
        digest.update(task.encode() + b"\0" + examples.numpy().tobytes())
    return digest.hexdigest()[:16]
