"""What becomes of a sentence's or a pair's vectors: the branch that the built-in heads give to each task.

Authors of heads are welcome to it: a config that extends `BranchConfig`, and `branches(config, width, tasks)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchkit.blocks import bounded_score, compared, cosine_score, finish
from benchkit.head import option
from benchkit.task import TaskShape

SCORES = ("linear", "cosine", "scaled-cosine")
"""How a pair is scored: by an MLP of both vectors, by their cosine, or by a cosine with learned scale and bias."""

LOSSES = ("", "bce", "mse", "cosent", "pearson")
"""Losses that a head may ask for where the task is a regression; "" leaves it to the task."""


@dataclass(frozen=True)
class BranchConfig:
    """The options of a branch; a head's config adds those of its trunk."""

    linear: int = option(256, low=32, high=1024, log=True, help="hidden features of a branch")
    dropout: float = option(0.3, low=0.0, high=0.6, help="before each linear")
    score: str = option("linear", choices=SCORES, help="how a pair is scored: by the MLP or by a cosine")
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

    A pair with a score may be compared by the cosine of its two vectors instead, each through a linear.

    Args:
        width: of a vector.
        config: its `linear` is the width of the hidden layer, or of the vectors that are compared; its `score` is of no
            interest to other tasks than regressions of pairs.
    """

    def __init__(self, config: BranchConfig, width: int, shape: TaskShape) -> None:
        super().__init__()
        self.shape = shape
        self.score = config.score if shape.segments == 2 and not shape.classes else "linear"
        if self.score == "linear":
            width *= 4 if shape.segments == 2 else 1
            self.layers = nn.Sequential(
                nn.Dropout(config.dropout),
                nn.Linear(width, config.linear),
                nn.GELU(),
                nn.Dropout(config.dropout),
                nn.Linear(config.linear, shape.out),
            )
        else:
            self.layers = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, config.linear))
        self.scaled = ScaledCosine(shape) if self.score == "scaled-cosine" else None

    def forward(self, vectors: Tensor) -> Tensor:
        """(batch, segment, width) -> (batch, out)."""
        if self.score == "linear":
            return finish(self.layers(compared(vectors)), self.shape)
        projected = self.layers(vectors)
        return self.scaled(projected) if self.scaled else cosine_score(projected, self.shape)


def branches(config: BranchConfig, width: int, tasks: Sequence[TaskShape]) -> nn.ModuleDict:
    """A branch a task, over vectors of `width`."""
    return nn.ModuleDict({shape.name: Branch(config, width, shape) for shape in tasks})


def asked_loss(config: BranchConfig, shape: TaskShape) -> str:
    """For `HeadSpec.loss`: what the config asks for, on regressions."""
    return "" if shape.classes else config.loss
