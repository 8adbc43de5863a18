"""Building blocks of heads: pooling, comparison of pairs, output layers, and the branch of the built-in heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchkit.core.features import Tokens
from benchkit.core.head import option
from benchkit.core.task import TaskShape


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


SCORES = ("linear", "cosine", "scaled-cosine")
"""How a pair is scored: by an MLP of both vectors, by their cosine, or by a cosine with learned scale and bias."""

LOSSES = ("", "bce", "mse", "cosent", "pearson")
"""Losses that a head may ask for where the task is a regression; "" leaves it to the task."""


@dataclass(frozen=True)
class BranchConfig:
    """The options of a branch; a head's config adds those of its trunk."""

    linear: int = option(512, low=32, high=1024, log=True, help="hidden features of a branch")
    dropout: float = option(0.5, low=0.0, high=0.6, help="before each linear")
    score: str = option("linear", choices=SCORES, help="how a pair is scored: by the MLP or by a cosine")
    symmetric: bool = option(False, choices=(False, True), help="read u+v of a pair in place of u and v")
    loss: str = option("", choices=LOSSES, help="loss asked for on regressions; empty: the task's own")


class ScaledCosine(nn.Module):
    """Score of a pair: the cosine of its vectors, with learned scale and bias through a sigmoid.

    Plain stretching reaches the ends of the label range only by vectors that are equal or opposite; here a good part
    of the range of the cosine may stand for each end (the report's "equalising").
    """

    def __init__(self, shape: TaskShape) -> None:
        super().__init__()
        self.shape = shape
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, 2, width) -> (batch, 1)."""
        cosine = F.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1).unsqueeze(1)
        return bounded_score(self.scale * cosine + self.bias, self.shape)


class Branch(nn.Module):
    """From the vectors of a sentence or a pair to the output of one task, by an MLP with one hidden layer.

    Of a pair it also reads the cosine, beside the MLP's other inputs and straight to the output: the encoder was
    trained to say much by it, and a sum of products that dropout thins says it badly (results/LOG.md). A pair with a
    score may be compared by the cosine alone, of its two vectors each through a linear.

    Args:
        width: of a vector.
        config: its `linear` is the width of the hidden layer, or of the vectors that are compared; its `score` is of no
            interest to other tasks than regressions of pairs.
    """

    def __init__(self, config: BranchConfig, width: int, shape: TaskShape) -> None:
        super().__init__()
        self.shape = shape
        self.score = config.score if shape.segments == 2 and not shape.classes else "linear"
        self.cosine = _silent(nn.Linear(1, shape.out)) if shape.segments == 2 and self.score == "linear" else None
        if self.score == "linear":
            width = (3 if config.symmetric else 4) * width + 1 if self.cosine else width
            self.layers = nn.Sequential(
                nn.Dropout(config.dropout),
                nn.Linear(width, config.linear),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.linear, shape.out),
            )
        else:
            self.layers = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.linear))
        self.compare = compared_either_way if config.symmetric else compared
        self.scaled = ScaledCosine(shape) if self.score == "scaled-cosine" else None

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, segment, width) -> (batch, out)."""
        if self.cosine:
            cosine = _centred_cosine(vectors)
            raw = self.layers(torch.cat([self.compare(vectors), cosine], 1)) + self.cosine(cosine)
            return finish(raw, self.shape)
        if self.score == "linear":
            return finish(self.layers(self.compare(vectors)), self.shape)
        projected = self.layers(vectors)
        return self.scaled(projected) if self.scaled else cosine_score(projected, self.shape)


def _silent(linear: nn.Linear) -> nn.Linear:
    """A linear that gives zeros until it is trained, so that no random sign of the cosine has to be unlearned."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _centred_cosine(vectors: Tensor) -> Tensor:
    """(batch, 2, width) -> (batch, 1): the cosine, with the range that sentences mostly have spread over [-2, 2]."""
    return 4 * F.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1).unsqueeze(1) - 2


def branches(config: BranchConfig, width: int, tasks: Sequence[TaskShape]) -> nn.ModuleDict:
    """A branch a task, over vectors of `width`."""
    return nn.ModuleDict({shape.name: Branch(config, width, shape) for shape in tasks})


def asked_loss(config: BranchConfig, shape: TaskShape) -> str:
    """For `HeadSpec.loss`: what the config asks for, on regressions."""
    return "" if shape.classes else config.loss
