"""Packed batches: word pieces of many inputs in one row, without padding; and batches of fixed size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from benchkit.encoder.attention import Layout, send, short
from benchkit.encoder.bert import MiniBert, join, pool
from benchkit.encoder.tokenizer import Tokenized


@dataclass(frozen=True)
class Batch:
    """Inputs laid end to end, on the layout's device.

    Attributes:
        ids, segments: (total,).
        lower: (total, hidden) states by layer, where they are known; `ids` and `segments` are then empty.
    """

    ids: Tensor
    segments: Tensor
    layout: Layout
    lower: Mapping[int, Tensor] | None = None


@dataclass(frozen=True)
class LowerStates:
    """Inputs by their states below the lowest trained layer, in place of their word pieces.

    Attributes:
        packed: gives the states of some rows (n,) int64 of a table, end to end: (total, width) float32.
        layers: whose states are side by side in them.
        rows: (n,) int64, the rows of the table that the inputs are.
        lengths: (n,) int64, word pieces of each.
    """

    packed: Callable[[Tensor], Tensor]
    layers: tuple[int, ...]
    rows: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: Tensor) -> LowerStates:
        """The inputs `rows` (k,) int64 alone, in that order."""
        return LowerStates(self.packed, self.layers, self.rows[rows], self.lengths[rows])


Inputs = Tokenized | LowerStates
"""What an encoder computes from."""


def gather(tokenized: Inputs, rows: Tensor, device: torch.device, padded: bool) -> Batch:
    """The inputs `rows` (batch,) int64, in that order; equal lengths should be neighbours."""
    layout = Layout(tokenized.lengths[rows], device, padded)
    if isinstance(tokenized, LowerStates):
        states = tokenized.packed(tokenized.rows[rows]).to(device)
        lower = dict(zip(tokenized.layers, states.chunk(len(tokenized.layers), dim=1), strict=True))
        none = torch.empty(0, dtype=torch.int32, device=device)
        return Batch(none, none, layout, lower)
    part = tokenized.select(rows)
    ids, segments = send(torch.stack([part.ids, part.segments.int()]), device)
    return Batch(ids, segments, layout)


def compute(
    model: MiniBert,
    batch: Batch,
    pooling: str,
    layers: tuple[int, ...],
    tokens: bool,
    weights: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Pooled vectors (rows, width) and, if asked for, those of the word pieces (total, width), both float32.

    Args:
        layers: as from `Encoder.check`; their vectors are put side by side, so width = hidden * len(layers).
        weights: in place of the model's own of these names.
    """
    layout, top = batch.layout, max(layers)
    first_only = not tokens and pooling in ("cls", "pooler")
    given = (batch.ids, batch.segments, layout, set(layers), first_only, batch.lower)
    states = functional_call(model, dict(weights), given) if weights else model(*given)
    pooled = []
    for layer in layers:
        done = first_only and layer == top
        vector = states[layer] if done else pool(states[layer].float(), layout, pooling)
        pooled.append(vector.float())
    if pooling == "pooler":
        assert model.pooler is not None  # see Encoder.check
        first = pooled[0].to(model.pooler.weight.dtype)
        pooled = [model.pooler(first).tanh().float()]
    return join(pooled, -1), join([states[layer].float() for layer in layers], -1) if tokens else None


@dataclass(frozen=True, order=True)
class Size:
    """A bucket's size: up to `total` word pieces in `rows` sentences of at most `time` each."""

    rows: int
    time: int
    total: int


class FixedLayout(Layout):
    """A padded layout of tensors that are on the device already.

    Args:
        positions, slots: (total,) int; the slot of a word piece of no row is `rows * time`.
        starts, lengths: (rows,) int.
    """

    fixed = True

    def __init__(self, positions: Tensor, slots: Tensor, starts: Tensor, lengths: Tensor, time: int) -> None:
        self.lengths = self.lengths_there = lengths
        self.device, self.padded = positions.device, True
        self.rows, self.total, self.longest = len(starts), len(positions), time
        self.positions, self.starts = positions, starts
        self.short = short(time, self.device)
        self.slots = slots.long()
        self.back = self.slots.clamp(max=self.rows * time - 1)
        _ = self.bias, self.spans  # made now, with the mask: a compiled layer does not make them

    def pad(self, packed: Tensor) -> Tensor:
        """As `Layout.pad`; word pieces of no row go to one more place, which is cut off."""
        end = self.rows * self.longest
        flat = packed.new_zeros(end + 1, *packed.shape[1:])
        return flat.index_copy(0, self.slots, packed)[:end].view(self.rows, self.longest, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """As `Layout.unpad`; what a word piece of no row gets does not matter."""
        return padded.flatten(0, 1).index_select(0, self.back)


def bucket_size(lengths: np.ndarray, positions: int) -> Size:
    """The size of the bucket for sentences of these lengths (rows,): one of a few, so that few graphs are needed.

    Args:
        positions: the longest sentence that the encoder takes.
    """
    time, total = int(lengths.max()), int(lengths.sum())
    return Size(len(lengths), min(_round_up(time, 16, 4), positions), _round_up(total, 128, 8))


def _round_up(number: int, least: int, parts: int) -> int:
    """The next multiple of `least`, or, from `parts` times that on, of a step that doubles as the number does."""
    step = max(least, (1 << number.bit_length()) // parts)
    return -(-number // step) * step


def pack(tokenized: Tokenized, rows: np.ndarray, size: Size) -> dict[str, np.ndarray]:
    """The inputs of many batches of one size: `rows` (batch, rows) to int32 arrays (batch, total) and (batch, rows)."""
    part = tokenized.select(torch.from_numpy(rows.ravel()))
    lengths, first = part.lengths.numpy(), part.offsets[:-1].numpy()
    starts = first.reshape(rows.shape) - first.reshape(rows.shape)[:, :1]
    within = np.arange(lengths.sum()) - np.repeat(first, lengths)
    number, row = (np.repeat(each, lengths) for each in divmod(np.arange(rows.size), size.rows))
    place = np.repeat(starts.ravel(), lengths) + within
    found = {name: np.zeros((len(rows), size.total), np.int32) for name in ("ids", "segments", "positions")}
    found["slots"] = np.full((len(rows), size.total), size.rows * size.time, np.int32)
    for name, values in (
        ("ids", part.ids.numpy()),
        ("segments", part.segments.numpy()),
        ("positions", within),
        ("slots", row * size.time + within),
    ):
        found[name][number, place] = values
    return {**found, "starts": starts.astype(np.int32), "lengths": lengths.reshape(rows.shape).astype(np.int32)}


def widths(size: Size) -> dict[str, int]:
    """How many numbers a batch has in each array of `pack`."""
    pieces = dict.fromkeys(("ids", "segments", "positions", "slots"), size.total)
    return {**pieces, "starts": size.rows, "lengths": size.rows}


def batch_of(fields: Mapping[str, Tensor], size: Size) -> Batch:
    """One batch of `pack`, its arrays as tensors on the device."""
    layout = FixedLayout(fields["positions"], fields["slots"], fields["starts"], fields["lengths"], size.time)
    return Batch(fields["ids"], fields["segments"], layout)
