"""Where features come from: a stored table, or the encoder itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchkit.core.features import Pooled
from benchkit.encoder.packing import Inputs, LowerStates, Size, batch_of, bucket_size, pack, widths
from benchkit.encoder.tokenizer import Tokenized
from benchkit.store.table import ResidentTokens

if TYPE_CHECKING:
    from benchkit.encoder import Encoder
    from benchkit.store.features import FeatureSettings
    from benchkit.store.table import FeatureTable
    from benchkit.training.evaluation import Reader


@dataclass
class StoredReader:
    """Features of an encoder that does not change meanwhile, so a snapshot is the reader itself.

    Attributes:
        place: (row of the corpus), int64: where in the table it is; None where the table has the corpus's rows.
    """

    table: FeatureTable
    place: Tensor | None = None

    def gather(self, rows: Tensor) -> Pooled:
        return self.table.gather(rows if self.place is None else self.place[rows])

    def snapshot(self, rows: Tensor) -> StoredReader:
        return self


@dataclass
class LiveReader:
    """Features computed batch by batch.

    Attributes:
        tokenized: the inputs as word pieces, or as their hidden states below the lowest trained layer.
        grad: whether the encoder is trained too; a frozen one is run in eval mode, without gradients.
        make_table: builds a table of some rows with the encoder's current weights.
        weights: returns weights, by name, that replace the encoder's own; or None.
    """

    encoder: Encoder
    tokenized: Inputs
    settings: FeatureSettings
    reads: type[Pooled]
    grad: bool
    make_table: Callable[[Tensor], FeatureTable]
    weights: Callable[[], Mapping[str, Tensor]] | None = None

    def gather(self, rows: Tensor) -> Pooled:
        if not self.grad:  # encoded by the same code as stored features, in the same precision
            return self.snapshot(torch.unique(rows)).gather(rows)
        settings = self.settings
        weights = self.weights() if self.weights else None
        return self.encoder.features(self.tokenized, rows, self.reads, settings.pooling, settings.layers, weights)

    def snapshot(self, rows: Tensor) -> StoredReader:
        table = self.make_table(rows)
        place = torch.full((len(self.tokenized),), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        return StoredReader(table, place)


def gather_together(reader: Reader, batches: Sequence[Tensor]) -> list[Pooled]:
    """The features of several batches of rows (batch, segment), computed in one encoder pass."""
    if len(batches) == 1:
        return [reader.gather(batches[0])]
    together = reader.gather(torch.cat([rows.flatten() for rows in batches])[:, None])
    ends = torch.tensor([rows.numel() for rows in batches]).cumsum(0).tolist()
    return [part_of(together, end - rows.numel(), rows.shape) for end, rows in zip(ends, batches, strict=True)]


def part_of(features: Pooled, start: int, shape: Sequence[int]) -> Pooled:
    """Take features (row, 1) from row `start` on and arrange them in `shape`, (batch, segment)."""
    values = {each.name: getattr(features, each.name) for each in dataclasses.fields(features)}
    return dataclasses.replace(
        features,
        **{
            name: value[start : start + math.prod(shape)].view(*shape, *value.shape[2:])
            for name, value in values.items()
        },
    )


class ShadowWeights:
    """bf16 copies of the weights of all trained linear layers for computing. The master weights stay float32."""

    def __init__(self, model: nn.Module) -> None:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "pooler"]
        named = [f"{name}.{kind}" for name in linear for kind in ("weight", "bias")]
        self.masters = {name: model.get_parameter(name) for name in named}
        self.copies = {
            name: each.detach().to(torch.bfloat16).requires_grad_(each.requires_grad)
            for name, each in self.masters.items()
        }

    def weights(self) -> Mapping[str, Tensor]:
        """The copies with cleared gradients, for the start of a step."""
        for each in self.copies.values():
            each.grad = None
        return self.copies

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master weights to the shadow weights."""
        torch._foreach_copy_(list(self.copies.values()), list(self.masters.values()))

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Copy the gradients of the shadow weights to the master weights."""
        given = {name: each.grad for name, each in self.copies.items() if each.grad is not None}
        if not given:
            return
        wide = [torch.empty_like(self.masters[name]) for name in given]
        torch._foreach_copy_(wide, list(given.values()))
        for name, gradient in zip(given, wide, strict=True):
            self.masters[name].grad = gradient


class Source(Protocol):
    """The source of features for batches of fixed shape. A step's inputs are the rows of all its batches."""

    @property
    def shadow(self) -> ShadowWeights | None:
        """The bf16 weights that compute the features, or None."""

    def size(self, rows: np.ndarray) -> Size:
        """The size of the bucket for a step with these inputs (n,)."""

    def widths(self, size: Size) -> Mapping[str, int]:
        """Width of each field of a step."""

    def fields(self, rows: np.ndarray, size: Size) -> Mapping[str, np.ndarray]:
        """The fields (step, width), int32, of steps with these inputs (step, n)."""

    def features(self, fields: Mapping[str, Tensor], size: Size, shapes: Sequence[tuple[int, int]]) -> list[Pooled]:
        """Features of a step's batches, from the step's fields on the device; `shapes` has each (batch, segment)."""


@dataclass(frozen=True)
class StoredSource:
    """Rows of a table in the device's memory.

    Attributes:
        place: (n,) int64: row of each input in the table; None if input i is row i.
    """

    table: FeatureTable
    place: np.ndarray | None = None

    @property
    def shadow(self) -> None:
        return None

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
        return dataclasses.replace(bucket_size(self._lengths[self._placed(rows)], self._longest), total=0)

    def _placed(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.place is None else self.place[rows]

    def widths(self, size: Size) -> Mapping[str, int]:
        return {"rows": size.rows}

    def fields(self, rows: np.ndarray, size: Size) -> Mapping[str, np.ndarray]:
        return {"rows": self._placed(rows).astype(np.int32)}

    def features(self, fields: Mapping[str, Tensor], size: Size, shapes: Sequence[tuple[int, int]]) -> list[Pooled]:
        rows = torch.split(fields["rows"], [batch * segment for batch, segment in shapes])
        return [self.table.gather_fixed(each.view(shape), size.time) for each, shape in zip(rows, shapes, strict=True)]


@dataclass(frozen=True)
class LiveSource:
    """Runs word pieces through the encoder that is being trained, all batches of a step in one pass.

    Attributes:
        shadow: bf16 copies of its weights for computing; None if it computes with its own weights.
    """

    reader: LiveReader
    shadow: ShadowWeights | None = None

    @cached_property
    def _lengths(self) -> np.ndarray:
        return self.reader.tokenized.lengths.numpy()

    def size(self, rows: np.ndarray) -> Size:
        return bucket_size(self._lengths[rows], self.reader.encoder.config.max_position_embeddings)

    def widths(self, size: Size) -> Mapping[str, int]:
        return widths(size)

    def fields(self, rows: np.ndarray, size: Size) -> Mapping[str, np.ndarray]:
        assert isinstance(self.reader.tokenized, Tokenized)  # see `source_of`
        return pack(self.reader.tokenized, rows, size)

    def features(self, fields: Mapping[str, Tensor], size: Size, shapes: Sequence[tuple[int, int]]) -> list[Pooled]:
        reader, settings = self.reader, self.reader.settings
        batch = batch_of(fields, size)
        weights = self.shadow.weights() if self.shadow else None
        together = reader.encoder.features_of(batch, reader.reads, settings.pooling, settings.layers, weights)
        parts, end = [], 0
        for batch_size, segment in shapes:
            start, end = end, end + batch_size * segment
            parts.append(part_of(together, start, (batch_size, segment)))
        return parts


def source_of(reader: Reader, *, autocast: bool) -> Source | None:
    """The source of a reader's features for steps of fixed shape; None if there is none."""
    if isinstance(reader, StoredReader):
        resident = reader.table.tokens is None or isinstance(reader.table.tokens, ResidentTokens)
        place = None if reader.place is None else reader.place.numpy()
        return StoredSource(reader.table, place) if resident else None
    if not (isinstance(reader, LiveReader) and reader.grad):
        return None
    if isinstance(reader.tokenized, LowerStates) or reader.weights:
        return None
    return LiveSource(reader, ShadowWeights(reader.encoder.model) if autocast else None)
