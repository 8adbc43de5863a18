"""What features of a step of fixed shape are made of: rows of a stored table, or word pieces through an encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from benchkit.encoder.fixed import Size, arrange, batch_of, room, widths
from benchkit.features import Pooled
from benchkit.store.tokens import ResidentTokens
from benchkit.train.halves import Halves
from benchkit.train.readers import LiveReader, Snapshot, StoredReader, part_of

if TYPE_CHECKING:
    from benchkit.store.table import FeatureTable
    from benchkit.train.evaluate import Reader


class Source(Protocol):
    """Where the features of steps come from; inputs of a step are named by their rows, of all its batches in turn."""

    def size(self, rows: np.ndarray) -> Size:
        """The room that a step with these inputs (n,) is given."""

    def widths(self, size: Size) -> Mapping[str, int]:
        """How many numbers a step has of each field."""

    def arrange(self, rows: np.ndarray, size: Size) -> Mapping[str, np.ndarray]:
        """The fields (step, width), int32, of steps with these inputs (step, n)."""

    def features(self, fields: Mapping[str, Tensor], size: Size, shapes: Sequence[tuple[int, int]]) -> list[Pooled]:
        """The features of a step's batches, each of a shape (batch, segment), from its fields on the device."""


@dataclass(frozen=True)
class StoredSource:
    """Rows of a table in the device's memory.

    Attributes:
        place: (n,) int64: where in the table an input is; None where input i is row i.
    """

    table: FeatureTable
    place: np.ndarray | None = None

    @cached_property
    def _lengths(self) -> np.ndarray | None:
        tokens = self.table.tokens
        return tokens.length.numpy() if isinstance(tokens, ResidentTokens) else None

    @cached_property
    def _longest(self) -> int:
        return 0 if self._lengths is None else int(self._lengths.max())

    def size(self, rows: np.ndarray) -> Size:
        if self._lengths is None:
            return Size(len(rows), 0, 0)
        return dataclasses.replace(room(self._lengths[self._placed(rows)], self._longest), total=0)

    def _placed(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.place is None else self.place[rows]

    def widths(self, size: Size) -> Mapping[str, int]:
        return {"rows": size.rows}

    def arrange(self, rows: np.ndarray, size: Size) -> Mapping[str, np.ndarray]:
        return {"rows": self._placed(rows).astype(np.int32)}

    def features(self, fields: Mapping[str, Tensor], size: Size, shapes: Sequence[tuple[int, int]]) -> list[Pooled]:
        rows = torch.split(fields["rows"], [batch * segment for batch, segment in shapes])
        return [self.table.gather_fixed(each.view(shape), size.time) for each, shape in zip(rows, shapes, strict=True)]


@dataclass(frozen=True)
class LiveSource:
    """Word pieces through the encoder that is being trained: all batches of a step in one pass.

    Attributes:
        halves: copies of its weights to compute with; None where it computes with its own.
    """

    reader: LiveReader
    halves: Halves | None = None

    @cached_property
    def _lengths(self) -> np.ndarray:
        return self.reader.tokenized.lengths.numpy()

    def size(self, rows: np.ndarray) -> Size:
        return room(self._lengths[rows], self.reader.encoder.config.max_position_embeddings)

    def widths(self, size: Size) -> Mapping[str, int]:
        return widths(size)

    def arrange(self, rows: np.ndarray, size: Size) -> Mapping[str, np.ndarray]:
        return arrange(self.reader.tokenized, rows, size)

    def features(self, fields: Mapping[str, Tensor], size: Size, shapes: Sequence[tuple[int, int]]) -> list[Pooled]:
        reader, settings = self.reader, self.reader.settings
        batch = batch_of(fields, size)
        weights = self.halves.weights() if self.halves else None
        together = reader.encoder.features_of(batch, reader.reads, settings.pooling, settings.layers, weights)
        parts, end = [], 0
        for batch_size, segment in shapes:
            start, end = end, end + batch_size * segment
            parts.append(part_of(together, start, (batch_size, segment)))
        return parts


def source_of(reader: Reader, *, autocast: bool) -> Source | None:
    """Where a reader's features can come from in steps of fixed shape; None where they cannot."""
    if isinstance(reader, StoredReader | Snapshot):
        resident = reader.table.tokens is None or isinstance(reader.table.tokens, ResidentTokens)
        place = reader.place.numpy() if isinstance(reader, Snapshot) else None
        return StoredSource(reader.table, place) if resident else None
    if not (isinstance(reader, LiveReader) and reader.grad):
        return None
    return LiveSource(reader, Halves(reader.encoder.model) if autocast else None)
