"""Small pieces that heads share. Plain functions of tensors; authors of heads are welcome to them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchkit.features import Tokens
from benchkit.task import TaskShape


def joined(vectors: Tensor) -> Tensor:
    """(batch, segment, width) -> (batch, segment * width): a pair's vectors side by side."""
    return vectors.flatten(1)


def cosine_score(vectors: Tensor, shape: TaskShape) -> Tensor:
    """Cosine similarity of a pair's two vectors, stretched from [-1, 1] to the task's label range.

    Args:
        vectors: (batch, 2, width).

    Returns:
        (batch, 1).
    """
    cosine = F.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1)
    return shape.stretch((cosine + 1) / 2).unsqueeze(1)


def bounded_score(raw: Tensor, shape: TaskShape) -> Tensor:
    """Any real number, through a sigmoid, into the task's label range: (batch, 1) -> (batch, 1)."""
    return shape.stretch(torch.sigmoid(raw))


def finish(raw: Tensor, shape: TaskShape) -> Tensor:
    """The output of a branch's last linear: logits as they are, a regression's one number into its label range."""
    return raw if shape.classes else bounded_score(raw, shape)


def compared(vectors: Tensor) -> Tensor:
    """What InferSent (Conneau et al. 2017) reads of a pair, [u; v; |u−v|; u*v]; of a sentence, u alone.

    Args:
        vectors: (batch, segment, width).

    Returns:
        (batch, width) or (batch, 4 * width).
    """
    if vectors.shape[1] == 1:
        return vectors[:, 0]
    u, v = vectors.unbind(1)
    return torch.cat([u, v, (u - v).abs(), u * v], dim=-1)


def compared_either_way(vectors: Tensor) -> Tensor:
    """As `compared`, with u+v in place of u and v: swapping the sentences of a pair makes no difference.

    Args:
        vectors: (batch, segment, width).

    Returns:
        (batch, width) or (batch, 3 * width).
    """
    if vectors.shape[1] == 1:
        return vectors[:, 0]
    u, v = vectors.unbind(1)
    return torch.cat([u + v, (u - v).abs(), u * v], dim=-1)


def packed(tokens: Tensor, mask: Tensor) -> Tensor:
    """The real word pieces end to end, so that no work is done on padding.

    Args:
        tokens: (…, time, width).
        mask: (…, time), bool.

    Returns:
        (piece, width).
    """
    return tokens[mask]


def padded(pieces: Tensor, mask: Tensor, value: float = 0.0) -> Tensor:
    """The inverse of `packed`: (piece, width) -> (…, time, width), `value` in the padding."""
    tokens = pieces.new_full((*mask.shape, pieces.shape[-1]), value)
    tokens[mask] = pieces
    return tokens


def sentences(features: Tokens) -> tuple[Tensor, Tensor]:
    """Every sentence by itself: tokens (batch * segment, time, hidden) and mask (batch * segment, time)."""
    return features.tokens.flatten(0, 1), features.mask.flatten(0, 1)
