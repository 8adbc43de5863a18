"""The two places features come from, with one interface: stored, or live from an encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchkit.features import Pooled

if TYPE_CHECKING:
    from benchkit.encoder import Encoder, Tokenized
    from benchkit.store.features import FeatureSettings
    from benchkit.store.table import FeatureTable


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

    def snapshot(self, rows: Tensor) -> _Snapshot:
        table = self.make_table(rows)
        place = torch.full((len(self.tokenized),), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        return _Snapshot(table, place)


@dataclass
class _Snapshot:
    """A table of some rows, addressed by their rows in the corpus."""

    table: FeatureTable
    place: Tensor

    def gather(self, rows: Tensor) -> Pooled:
        return self.table.gather(self.place[rows])

    def snapshot(self, rows: Tensor) -> _Snapshot:
        return self
