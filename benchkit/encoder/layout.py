"""Sentences laid end to end: how the rows of a packed `(total, hidden)` tensor belong to sentences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from benchkit.encoder.fused import short


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device` of a tensor on the CPU; to a GPU without waiting for what it is at."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Group:
    """Neighbouring sentences of one length: a packed slice that is a `(rows, time, hidden)` view."""

    first_row: int
    rows: int
    first_token: int
    time: int

    @property
    def row_slice(self) -> slice:
        return slice(self.first_row, self.first_row + self.rows)

    @property
    def token_slice(self) -> slice:
        return slice(self.first_token, self.first_token + self.rows * self.time)


class Layout:
    """The lengths of packed sentences, equal ones next to each other.

    Args:
        lengths: (rows,) int64 on the CPU, sorted: the fewer groups, the faster.
        device: where the packed tensors are.
        padded: attention and pooling pad to the longest sentence (a few large kernels: GPUs) and mask, instead of
            going through the groups (no work on padding: CPUs). Everything else is packed in either case, and attention
            too where a GPU has a kernel for it (`varlen`).
    """

    fixed = False
    lengths_there: Tensor  # `lengths` on the device
    short: bool  # there is a kernel for sentences as short as these, which goes before any other way

    def __init__(self, lengths: Tensor, device: torch.device | str = "cpu", padded: bool = False) -> None:
        self.lengths, self.device, self.padded = lengths, torch.device(device), padded
        self.rows, self.total = len(lengths), int(lengths.sum())
        self.longest = int(lengths.max()) if self.rows else 0
        ends = lengths.cumsum(0)
        starts = ends - lengths
        within = torch.arange(self.total) - starts.repeat_interleave(lengths)
        # One transfer to the device for all three.
        slots = (torch.arange(self.rows) * self.longest).repeat_interleave(lengths) + within
        self.positions, self.slots = send(torch.stack([within, slots]), self.device)
        self.starts, self.lengths_there = send(torch.stack([starts, lengths]), self.device)
        self.short = padded and short(self.longest, self.device)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        groups, row, token = [], 0, 0
        times, counts = torch.unique_consecutive(self.lengths, return_counts=True)
        for time, rows in zip(times.tolist(), counts.tolist(), strict=True):
            groups.append(Group(row, rows, token, time))
            row, token = row + rows, token + rows * time
        return tuple(groups)

    @cached_property
    def spans(self) -> Tensor:
        """(2, rows) int32: where each sentence starts, and its length."""
        return torch.stack([self.starts, self.lengths_there]).int()

    @cached_property
    def bounds(self) -> Tensor:
        """(rows + 1,) int32: where each sentence starts, and where the last ends."""
        ends = torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])
        return send(ends.int(), self.device)

    @cached_property
    def bias(self) -> Tensor:
        """(rows, 1, 1, time) float32, to be added to attention's scores: 0 on real word pieces, -inf on padding."""
        return torch.zeros_like(self.mask, dtype=torch.float32).masked_fill(~self.mask, float("-inf"))[:, None, None]

    @cached_property
    def mask(self) -> Tensor:
        """(rows, time) bool: True on real word pieces."""
        return torch.arange(self.longest, device=self.device) < self.lengths_there[:, None]

    def pad(self, packed: Tensor) -> Tensor:
        """(total, ...) to (rows, time, ...), zero on padding."""
        flat = packed.new_zeros(self.rows * self.longest, *packed.shape[1:])
        return flat.index_copy(0, self.slots, packed).view(self.rows, self.longest, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """(rows, time, ...) to (total, ...): the inverse of `pad`."""
        return padded.flatten(0, 1).index_select(0, self.slots)
