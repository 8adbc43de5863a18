"""Small pieces that heads share. Plain functions of tensors; authors of heads are welcome to them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

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
