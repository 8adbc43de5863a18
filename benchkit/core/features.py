"""The seam between encoder and head: values, not calls.

A head reads features and nothing else. Features encoded once and stored (frozen encoder) and features computed
live with gradients (fine-tuning) are the same types, so a head cannot tell them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor


Pooling = Literal["cls", "mean", "max", "pooler"]
"""How the states of a sentence's word pieces become one vector; computed by `pool` in `benchkit.encoder.bert`."""
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


@dataclass(frozen=True)
class Pooled:
    """One vector a sentence.

    Attributes:
        pooled: (batch, segment, hidden), float. `segment` is 1 for a sentence, 2 for a pair encoded
            apart, 1 for a pair encoded jointly (`[CLS] a [SEP] b [SEP]`).
    """

    pooled: Tensor


@dataclass(frozen=True)
class Tokens(Pooled):
    """Also one vector a word piece, `[CLS]` and `[SEP]` included.

    Attributes:
        tokens: (batch, segment, time, hidden), float; zero where `mask` is False.
        mask: (batch, segment, time), bool; True on real word pieces.
    """

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Layers(Pooled):
    """Also one vector a layer, pooled as the protocol says; `pooled` is the last of them.

    Attributes:
        layers: (batch, segment, layer, hidden), float; the embeddings first, the last layer last.
    """

    layers: Tensor

    @staticmethod
    def split(vectors: Tensor, count: int) -> Layers:
        """From vectors of all layers side by side, (batch, segment, layer * hidden)."""
        layers = vectors.view(*vectors.shape[:-1], count, -1)
        return Layers(layers[..., -1, :], layers)
