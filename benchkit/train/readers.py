"""The two places features come from, with one interface: stored, or live from an encoder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchkit.features import Pooled

if TYPE_CHECKING:
    from benchkit.encoder import Encoder, Tokenized
    from benchkit.store.features import FeatureSettings
    from benchkit.store.table import FeatureTable
    from benchkit.train.evaluate import Reader


@dataclass
class StoredReader:
    """Features of a frozen encoder; they never change, so a snapshot is the reader itself."""

    table: FeatureTable

    def gather(self, rows: Tensor) -> Pooled:
        return self.table.gather(rows)

    def snapshot(self, rows: Tensor) -> StoredReader:
        return self


@dataclass
class LiveReader:
    """Features computed batch by batch.

    Attributes:
        grad: whether the encoder is trained along; a frozen one is run in eval mode, without gradients.
        make_table: builds a table of some rows from the encoder as it is now.
    """

    encoder: Encoder
    tokenized: Tokenized
    settings: FeatureSettings
    reads: type[Pooled]
    grad: bool
    make_table: Callable[[Tensor], FeatureTable]

    def gather(self, rows: Tensor) -> Pooled:
        if not self.grad:  # encoded by the same code as stored features, in the same precision
            return self.snapshot(torch.unique(rows)).gather(rows)
        settings = self.settings
        return self.encoder.features(self.tokenized, rows, self.reads, settings.pooling, settings.layers)

    def snapshot(self, rows: Tensor) -> Snapshot:
        table = self.make_table(rows)
        place = torch.full((len(self.tokenized),), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        return Snapshot(table, place)


@dataclass
class Snapshot:
    """A table of some rows, addressed by their rows in the corpus."""

    table: FeatureTable
    place: Tensor

    def gather(self, rows: Tensor) -> Pooled:
        return self.table.gather(self.place[rows])

    def snapshot(self, rows: Tensor) -> Snapshot:
        return self


def gather_together(reader: Reader, batches: Sequence[Tensor]) -> list[Pooled]:
    """The features of several batches of rows (batch, segment) by one call of the reader: one pass of an encoder."""
    if len(batches) == 1:
        return [reader.gather(batches[0])]
    together = reader.gather(torch.cat([rows.flatten() for rows in batches])[:, None])
    ends = torch.tensor([rows.numel() for rows in batches]).cumsum(0).tolist()
    return [part_of(together, end - rows.numel(), rows.shape) for end, rows in zip(ends, batches, strict=True)]


def part_of(features: Pooled, start: int, shape: Sequence[int]) -> Pooled:
    """Of features (row, 1) those from row `start` on that fill `shape`, (batch, segment), in that shape."""
    values = {each.name: getattr(features, each.name) for each in dataclasses.fields(features)}
    return dataclasses.replace(
        features,
        **{
            name: value[start : start + math.prod(shape)].view(*shape, *value.shape[2:])
            for name, value in values.items()
        },
    )
