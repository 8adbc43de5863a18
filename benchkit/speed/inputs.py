"""Made-up word pieces and labels, the same for every head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchkit.encoder import Encoder, Tokenized
from benchkit.features import Layers, Pooled, Tokens
from benchkit.rng import generator
from benchkit.speed.request import MIXED, Point
from benchkit.task import TaskShape

# Word pieces of a sentence in the report's data are near to log-normal: median 13, the 95th percentile at 28.
_MEDIAN, _SPREAD = 13.0, 0.46


@dataclass(frozen=True)
class Inputs:
    """One batch of every task.

    Attributes:
        rows: by task, (batch, segment) int64, into `tokenized`; no row twice.
        labels: by task, (batch,), int64 classes or float32 scores.
    """

    tokenized: Tokenized
    rows: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]

    @property
    def examples(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    @property
    def sentences(self) -> int:
        return len(self.tokenized)

    @property
    def tokens(self) -> int:
        """Word pieces, nothing padded."""
        return int(self.tokenized.offsets[-1])

    def lengths(self, task: str) -> Tensor:
        """(batch, segment) int64, in word pieces."""
        return self.tokenized.lengths[self.rows[task]]


def make_inputs(encoder: Encoder, shapes: Sequence[TaskShape], point: Point) -> Inputs:
    """Sentences of the point's lengths, of random words between `[CLS]` and `[SEP]`."""
    random = generator(0, "speed", str(point.batch), point.length)
    ends = [point.batch * sum(shape.segments for shape in shapes[:i]) for i in range(len(shapes) + 1)]
    lengths = _lengths(point, ends[-1], encoder.config.max_position_embeddings, random)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    vocab = encoder.tokenizer.get_vocab()
    words = torch.tensor(sorted(number for piece, number in vocab.items() if not piece.startswith("[")))
    ids = words[torch.randint(len(words), (int(offsets[-1]),), generator=random)].int()
    ids[offsets[:-1]], ids[offsets[1:] - 1] = vocab["[CLS]"], vocab["[SEP]"]
    rows = {
        shape.name: torch.arange(start, end).view(point.batch, shape.segments)
        for shape, start, end in zip(shapes, ends, ends[1:], strict=False)
    }
    labels = {shape.name: make_labels(shape, point.batch, random) for shape in shapes}
    return Inputs(Tokenized(ids, torch.zeros_like(ids, dtype=torch.uint8), offsets, 0), rows, labels)


def make_labels(shape: TaskShape, count: int, random: torch.Generator) -> Tensor:
    """(count,) classes or scores."""
    if shape.classes:
        return torch.randint(shape.classes, (count,), generator=random)
    return shape.low + (shape.high - shape.low) * torch.rand(count, generator=random)


def _lengths(point: Point, count: int, longest: int, random: torch.Generator) -> Tensor:
    if point.length != MIXED:
        return torch.full((count,), int(point.length))
    drawn = _MEDIAN * (_SPREAD * torch.randn(count, generator=random)).exp()
    return drawn.round().long().clamp(3, longest)


def make_features(reads: type[Pooled], lengths: Tensor, width: int, layers: int) -> Pooled:
    """Random features of sentences with these lengths, (batch, segment), for a head that is only counted."""
    random = torch.Generator().manual_seed(0)
    if issubclass(reads, Layers):
        return Layers.split(torch.randn(*lengths.shape, layers * width, generator=random), layers)
    pooled = torch.randn(*lengths.shape, width, generator=random)
    if not issubclass(reads, Tokens):
        return Pooled(pooled)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
    tokens = torch.randn(*mask.shape, width, generator=random)
    return Tokens(pooled, tokens * mask.unsqueeze(-1), mask)
