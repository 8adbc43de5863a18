"""Features of a list of inputs, ready to be gathered batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchkit.features import Layers, Pooled, Tokens
from benchkit.store.segments import Segment
from benchkit.store.tokens import MappedTokens, ResidentTokens, TokenPayload


@dataclass(frozen=True)
class Report:
    """What it took to get a table: distinct inputs that were stored already and that were encoded for it."""

    reused: int
    encoded: int
    seconds: float


@dataclass(frozen=True)
class FeatureTable:
    """Row i holds the features of input i.

    Attributes:
        pooled: (row, hidden), float32, in memory.
        tokens: the word pieces of each row; None where only pooled features were asked for.
        layers: how many layers' vectors a row of `pooled` holds, to be kept apart; 0 where it is one vector.
    """

    pooled: Tensor
    tokens: TokenPayload | None
    report: Report
    layers: int = 0

    def __len__(self) -> int:
        return len(self.pooled)

    @property
    def width(self) -> int:
        return self.pooled.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all features, those that stay on disk included."""
        resident = self.pooled.numel() * self.pooled.element_size()
        return resident + (self.tokens.nbytes if self.tokens else 0)

    def gather(self, rows: Tensor) -> Pooled:
        """The features of `rows` (batch, segment), int64, on the device of `pooled`.

        `Tokens` if the table holds them, padded to the longest input of the batch; `Layers` if it keeps them apart.
        """
        flat = rows.reshape(-1)
        pooled = self.pooled.index_select(0, flat.to(self.pooled.device)).view(*rows.shape, self.width)
        if self.layers:
            return Layers.split(pooled, self.layers)
        if self.tokens is None:
            return Pooled(pooled)
        tokens, mask = (each.to(pooled.device) for each in self.tokens.gather(flat))
        return Tokens(pooled, tokens.view(*rows.shape, *tokens.shape[1:]), mask.view(*rows.shape, mask.shape[1]))

    def gather_fixed(self, rows: Tensor, time: int) -> Pooled:
        """As `gather`, of `rows` (batch, segment) on the device of `pooled`, with tokens padded to `time`.

        Only for a table whose tokens, if it has any, are `resident`.
        """
        flat = rows.reshape(-1)
        pooled = self.pooled.index_select(0, flat).view(*rows.shape, self.width)
        if self.layers:
            return Layers.split(pooled, self.layers)
        if self.tokens is None:
            return Pooled(pooled)
        assert isinstance(self.tokens, ResidentTokens)
        tokens, mask = self.tokens.gather_fixed(flat, time)
        return Tokens(pooled, tokens.view(*rows.shape, *tokens.shape[1:]), mask.view(*rows.shape, time))

    def pooled_only(self) -> FeatureTable:
        """The same rows without tokens, sharing memory: for a head that reads `Pooled`."""
        return dataclasses.replace(self, tokens=None)

    def to(self, device: torch.device | str) -> FeatureTable:
        """The table on `device`; tokens of more than half of a GPU's free memory stay on disk."""
        device = torch.device(device)
        tokens = self.tokens
        if isinstance(tokens, MappedTokens) and device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if len(self) and tokens.nbytes < free // 2:
                tokens = tokens.resident(device)
        return dataclasses.replace(self, pooled=self.pooled.to(device), tokens=tokens)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """As `Tensor.record_stream`, for all that is in a GPU's memory: once dropped, that is reused only when `stream`
        has done what it was given.
        """
        tokens = self.tokens.tensors() if isinstance(self.tokens, ResidentTokens) else ()
        for each in (self.pooled, *tokens):
            if each.is_cuda:
                each.record_stream(stream)


def assemble(
    digests: Sequence[bytes], segments: Sequence[Segment], width: int, report: Report, layers: int = 0
) -> FeatureTable:
    """A table whose row i is the input named `digests[i]`, which one of `segments` holds.

    The table has tokens if the segments do. An input that several hold is taken from the last.
    """
    place = {name: i for i, name in enumerate(name for segment in segments for name in segment.digests)}
    places = torch.tensor([place[name] for name in digests], dtype=torch.int64)
    ends = torch.tensor([len(segment.digests) for segment in segments], dtype=torch.int64).cumsum(0)
    part = torch.searchsorted(ends, places, right=True)
    local = places - torch.cat([ends.new_zeros(1), ends])[part]
    pooled = torch.empty((len(digests), width))
    start, length = torch.zeros_like(local), torch.zeros_like(local)
    for i, segment in enumerate(segments):
        (rows,) = torch.nonzero(part == i, as_tuple=True)
        pooled.index_copy_(0, rows, segment.pooled[local[rows]])
        if segment.offsets is not None:
            start[rows] = segment.offsets[local[rows]]
            length[rows] = segment.offsets[local[rows] + 1] - start[rows]
    parts = [segment.tokens for segment in segments if segment.tokens is not None]
    tokens = MappedTokens(parts, part, start, length) if parts else None
    return FeatureTable(pooled, tokens, report, layers)
