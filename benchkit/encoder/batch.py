"""One packed batch through the trunk: gather, compute, pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from benchkit.encoder.layout import Layout, send
from benchkit.encoder.model import MiniBert
from benchkit.encoder.pooling import pool
from benchkit.encoder.tokenizer import Tokenized


@dataclass(frozen=True)
class Batch:
    """Inputs laid end to end: `ids` and `segments` (total,), on the layout's device."""

    ids: Tensor
    segments: Tensor
    layout: Layout


def gather(tokenized: Tokenized, rows: Tensor, device: torch.device, padded: bool) -> Batch:
    """The inputs `rows` (batch,) int64, in that order; equal lengths should be neighbours."""
    lengths = tokenized.lengths[rows]
    ends = lengths.cumsum(0)
    shift = (tokenized.offsets[rows] - ends + lengths).repeat_interleave(lengths)
    where = shift + torch.arange(len(shift))
    both = send(torch.stack([tokenized.ids[where], tokenized.segments[where].int()]), device)
    return Batch(both[0], both[1], Layout(lengths, device, padded))


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
        layers: as from `resolve_layers`; their vectors are put side by side, so width = hidden * len(layers).
        weights: in place of the model's own of these names.
    """
    layout, top = batch.layout, max(layers)
    first_only = not tokens and pooling in ("cls", "pooler")
    given = (batch.ids, batch.segments, layout, set(layers), first_only)
    states = functional_call(model, dict(weights), given) if weights else model(*given)
    pooled = []
    for layer in layers:
        done = first_only and layer == top
        vector = states[layer] if done else pool(states[layer].float(), layout, pooling)
        pooled.append(vector.float())
    if pooling == "pooler":
        assert model.pooler is not None  # see check_pooling
        first = pooled[0].to(model.pooler.weight.dtype)
        pooled = [model.pooler(first).tanh().float()]
    if not tokens:
        return _side_by_side(pooled), None
    return _side_by_side(pooled), _side_by_side([states[layer].float() for layer in layers])


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
