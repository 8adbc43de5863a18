"""Convolutions over word pieces, the loudest of each filter kept.

Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchkit import HeadSpec, TaskShape, Tokens, hookimpl, option
from benchkit.nn.blocks import BranchConfig, asked_loss, branches, packed, padded, sentences


@dataclass(frozen=True)
class TokenCnnConfig(BranchConfig):
    width: int = option(128, low=32, high=512, log=True, help="features of a word piece before the convolutions")
    channels: int = option(128, low=16, high=512, log=True, help="filters of each size")
    smallest: int = option(1, low=1, high=3, help="smallest filter, in word pieces")
    largest: int = option(3, low=3, high=6, help="largest filter; there are filters of each size between")

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.largest <= 512:
            raise ValueError(f"filters of sizes {self.smallest} to {self.largest}: from 1 up, to at most 512")

    @property
    def sizes(self) -> range:
        return range(self.smallest, self.largest + 1)


class Convolutions(nn.Module):
    """Word pieces to a sentence's vector: a linear, convolutions of several sizes, the maximum over time.

    The sentences of a batch are laid end to end, with gaps of zeros as long as a filter, and read as one: half
    the time of padding each to the longest. What a filter that hangs over an end sees is zero in either case.
    """

    def __init__(self, config: TokenCnnConfig, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, config.width))
        self.filters = nn.ModuleList(nn.Linear(size * config.width, config.channels) for size in config.sizes)
        self.sizes = config.sizes

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(n, time, hidden), (n, time) -> (n, sizes * channels)."""
        pieces, gap = self.enter(packed(tokens, mask)), self.sizes[-1] - 1
        sentence, _ = mask.nonzero(as_tuple=True)
        place = torch.arange(len(sentence), device=mask.device) + gap * (sentence + 1)
        line = pieces.new_zeros(len(pieces) + gap * (len(mask) + 1), pieces.shape[1]).index_copy(0, place, pieces)
        found = []
        for size, filters in zip(self.sizes, self.filters, strict=True):
            first = place - (size - 1) // 2
            windows = torch.cat([line.index_select(0, first + i) for i in range(size)], dim=1)  # (piece, size * width)
            found.append(padded(filters(windows), mask, float("-inf")).amax(dim=1).relu())
        return torch.cat(found, dim=1)


class TokenCnn(nn.Module):
    def __init__(self, config: TokenCnnConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.trunk = Convolutions(config, hidden)
        self.branches = branches(config, config.channels * len(config.sizes), tasks)

    def forward(self, features: Tokens, task: str) -> Tensor:
        vectors = self.trunk(*sentences(features))
        outputs: Tensor = self.branches[task](vectors.view(*features.mask.shape[:2], -1))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "Convolutions over the word pieces, maximum over time, an MLP a task."
    return [HeadSpec("token-cnn", summary, TokenCnn, TokenCnnConfig, Tokens, loss=asked_loss)]
