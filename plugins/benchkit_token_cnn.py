"""Convolutions over word pieces, the loudest of each filter kept.

Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchkit.blocks import packed, padded, sentences
from benchkit.branch import BranchConfig, asked_loss, branches
from benchkit.features import Tokens
from benchkit.head import HeadSpec, option
from benchkit.hookspecs import hookimpl
from benchkit.task import TaskShape


@dataclass(frozen=True)
class TokenCnnConfig(BranchConfig):
    width: int = option(128, low=32, high=512, log=True, help="features of a word piece before the convolutions")
    channels: int = option(128, low=16, high=512, log=True, help="filters of each size")
    smallest: int = option(1, low=1, high=3, help="smallest filter, in word pieces")
    largest: int = option(3, low=3, high=6, help="largest filter; there are filters of each size between")

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest:
            raise ValueError(
                f"filters of sizes {self.smallest} to {self.largest}: smallest is at least 1, largest no less"
            )

    @property
    def sizes(self) -> range:
        return range(self.smallest, self.largest + 1)


class Convolutions(nn.Module):
    """Word pieces to a sentence's vector: a linear, convolutions of several sizes, the maximum over time."""

    def __init__(self, config: TokenCnnConfig, hidden: int) -> None:
        super().__init__()
        self.sizes = config.sizes
        self.enter = nn.Sequential(nn.LayerNorm(hidden), nn.Dropout(config.dropout), nn.Linear(hidden, config.width))
        self.convolutions = nn.ModuleList(nn.Conv1d(config.width, config.channels, size) for size in config.sizes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(n, time, hidden), (n, time) -> (n, sizes * channels)."""
        pieces = padded(self.enter(packed(tokens, mask)), mask).transpose(1, 2)  # (n, width, time), 0 in padding
        blank = ~mask.unsqueeze(1)
        found = []
        for size, convolution in zip(self.sizes, self.convolutions, strict=True):
            # As many maps as pieces; a filter that hangs over the end sees zeros, be they padding of the batch or not.
            maps = convolution(F.pad(pieces, ((size - 1) // 2, size // 2)))
            found.append(maps.masked_fill(blank, float("-inf")).amax(dim=2).relu())
        return torch.cat(found, dim=1)


class TokenCnn(nn.Module):
    def __init__(self, config: TokenCnnConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.trunk = Convolutions(config, hidden)
        width = config.channels * len(config.sizes)
        self.branches = branches(config, width, tasks)

    def forward(self, features: Tokens, task: str) -> Tensor:
        vectors = self.trunk(*sentences(features))
        outputs: Tensor = self.branches[task](vectors.view(*features.mask.shape[:2], -1))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "Convolutions over the word pieces, maximum over time, an MLP a task."
    return [HeadSpec("token-cnn", summary, TokenCnn, TokenCnnConfig, Tokens, loss=asked_loss)]
