"""Stored word-piece vectors, gathered for a batch: mapped from disk, or in the memory of an accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor


class TokenPayload(Protocol):
    """The tokens of some rows; a row is one input."""

    @property
    def nbytes(self) -> int: ...

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of `rows` (row): tokens (row, time, hidden), float32, zero in the padding; mask (row, time)."""
        ...


@dataclass(frozen=True)
class MappedTokens:
    """Tokens that stay on disk; a gather copies what it needs.

    Attributes:
        parts: one for each segment, (piece, hidden), float32 or bfloat16.
        part: (row), int64: the part that holds the row.
        start: (row), int64: the row's first piece in its part.
        length: (row), int64.
    """

    parts: Sequence[Tensor]
    part: Tensor
    start: Tensor
    length: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the tokens of all rows: what `resident` takes."""
        if not self.parts:
            return 0
        return int(self.length.sum()) * self.parts[0].shape[1] * self.parts[0].element_size()

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = rows.cpu()
        length = self.length[rows]
        tokens, mask = _padding(length, self.parts[0])
        picked = zip(self.part[rows].tolist(), self.start[rows].tolist(), length.tolist(), strict=True)
        raw = _bits(tokens).numpy()
        parts = {part: _bits(self.parts[part]).numpy() for part in set(self.part[rows].tolist())}
        for i, (part, start, n) in enumerate(picked):  # slices of NumPy arrays cost a third of torch's
            raw[i, :n] = parts[part][start : start + n]
        return tokens.float(), mask

    def resident(self, device: torch.device) -> ResidentTokens:
        """All rows in the memory of `device`, copied one after the other."""
        total, width = int(self.length.sum()), self.parts[0].shape[1]
        tokens = torch.empty((total, width), dtype=self.parts[0].dtype, device=device)
        start = self.length.cumsum(0) - self.length
        for i, part in enumerate(self.parts):
            (rows,) = torch.nonzero(self.part == i, as_tuple=True)
            pieces = _ranges(self.start[rows], self.length[rows])
            tokens[_ranges(start[rows], self.length[rows]).to(device)] = part[pieces].to(device)
        return ResidentTokens(tokens, start.to(device), self.length)


@dataclass(frozen=True)
class ResidentTokens:
    """Tokens in one piece, in the memory of a device.

    Attributes:
        tokens: (piece, hidden), float32 or bfloat16.
        start: (row), int64, on the same device.
        length: (row), int64, on the CPU: the longest of a batch is known without waiting for the device.
    """

    tokens: Tensor
    start: Tensor
    length: Tensor

    @property
    def nbytes(self) -> int:
        return self.tokens.numel() * self.tokens.element_size()

    def gather(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        length = self.length[rows.cpu()]
        tokens, mask = _padding(length, self.tokens)
        steps = torch.arange(mask.shape[1], device=mask.device)
        pieces = self.start[rows.to(self.start.device), None] + steps
        tokens[mask] = self.tokens[pieces[mask]]
        return tokens.float(), mask

    def gather_fixed(self, rows: Tensor, time: int) -> tuple[Tensor, Tensor]:
        """As `gather`, of `rows` on the device, padded to `time`, which no row exceeds; waits for nothing."""
        steps = torch.arange(time, device=rows.device)
        mask = steps < self.length_there[rows, None]
        pieces = (self.start[rows, None] + steps).clamp(max=len(self.tokens) - 1)
        return self.tokens[pieces].float().masked_fill(~mask[..., None], 0.0), mask

    @cached_property
    def length_there(self) -> Tensor:
        """`length` on the device."""
        return self.length.to(self.start.device)

    def tensors(self) -> tuple[Tensor, ...]:
        """All that is on the device."""
        return self.tokens, self.start, self.length_there


def _padding(length: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros (row, time, hidden) of the type of `like`, and the mask (row, time) of `length` (row)."""
    time = int(length.max()) if len(length) else 0
    mask = torch.arange(time) < length[:, None]
    return like.new_zeros((len(length), time, like.shape[1])), mask.to(like.device)


def _bits(tensor: Tensor) -> Tensor:
    """NumPy knows no bfloat16: the same memory as integers."""
    return tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor


def _ranges(start: Tensor, length: Tensor) -> Tensor:
    """start[0], start[0] + 1, … (length[0] of them), start[1], …"""
    first = length.cumsum(0) - length
    return torch.arange(int(length.sum())) + torch.repeat_interleave(start - first, length)
