"""From one vector a word piece to one vector a sentence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchkit.encoder.layout import Layout
from benchkit.encoder.model import MiniBert
from benchkit.errors import UserError

POOLINGS = ("cls", "mean", "max", "pooler")


def resolve_layers(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """Layer numbers from 0 (embeddings) to `count`; negative ones count from the last, -1.

    Raises:
        UserError: none given, or one out of range.
    """
    if not layers:
        raise UserError("layers is empty; name at least one, such as -1 for the last")
    for layer in layers:
        if not -count - 1 <= layer <= count:
            raise UserError(f"layer {layer} does not exist; this encoder has 0 (embeddings) to {count} (last)")
    return tuple(layer % (count + 1) for layer in layers)


def check_pooling(pooling: str, layers: tuple[int, ...], model: MiniBert) -> None:
    """Refuse what cannot be pooled; `layers` as from `resolve_layers`.

    Raises:
        UserError: an unknown pooling, or `pooler` without its weights or on another layer than the last.
    """
    if pooling not in POOLINGS:
        raise UserError(f"pooling is one of {', '.join(POOLINGS)}, not {pooling!r}")
    if pooling == "pooler" and model.pooler is None:
        raise UserError("pooling 'pooler' needs pooler weights, and this checkpoint has none; use cls or mean")
    if pooling == "pooler" and layers != (len(model.layers),):
        raise UserError("pooling 'pooler' reads the last layer only; use layers (-1,)")


def pool(states: Tensor, layout: Layout, pooling: str) -> Tensor:
    """(total, hidden) to (rows, hidden); `mean` and `max` go over all word pieces, `[CLS]` and `[SEP]` included."""
    if pooling in ("cls", "pooler"):
        return states[layout.starts]
    if layout.padded:
        padded = layout.pad(states)  # rows time hidden, zero on padding
        if pooling == "max":
            return padded.masked_fill(~layout.mask[..., None], float("-inf")).amax(1)
        return padded.sum(1) / layout.lengths_there[:, None]
    parts = []
    for group in layout.groups:
        view = states[group.token_slice].view(group.rows, group.time, -1)
        parts.append(view.amax(1) if pooling == "max" else view.mean(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)
