"""Data as the trainer wants it: distinct inputs, and for each split the rows of its texts and its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchkit.task import TaskSpec

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


def build_corpus(data: Mapping[str, Mapping[str, Split]], tasks: Sequence[TaskSpec], *, joint: bool) -> Corpus:
    """Number the distinct inputs of all splits, in order of appearance."""
    index: dict[tuple[str, ...], int] = {}
    parts = {}
    for task in tasks:
        for name, split in data[task.name].items():
            rows = [
                [index.setdefault(each, len(index)) for each in ([texts] if joint else [(text,) for text in texts])]
                for texts in split.texts
            ]
            labels = _labels(split.labels, task) if split.labelled else None
            parts[task.name, name] = Part(torch.tensor(rows, dtype=torch.int64), labels, tuple(split.ids))
    return Corpus(tuple(index), parts)


def _labels(labels: np.ndarray, task: TaskSpec) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64 if task.classes else np.float32))
