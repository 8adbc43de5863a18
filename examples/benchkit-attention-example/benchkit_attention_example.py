"""A learned query asks every word piece how much it matters, and a sentence is the mean by that.

Source: the attention of Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchkit import HeadSpec, TaskShape, Tokens, hookimpl, option
from benchkit.nn.blocks import finish, joined


@dataclass(frozen=True)
class Config:
    width: int = option(64, low=16, high=512, log=True, help="features of keys, values and query")
    dropout: float = option(0.1, low=0.0, high=0.6, help="on the sentence vectors")


class Attention(nn.Module):
    def __init__(self, config: Config, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.shapes = {shape.name: shape for shape in tasks}
        self.trunk = nn.Linear(hidden, 2 * config.width)  # keys and values at once
        self.dropout = nn.Dropout(config.dropout)
        self.queries = nn.ParameterDict({shape.name: nn.Parameter(torch.randn(config.width)) for shape in tasks})
        self.branches = nn.ModuleDict({s.name: nn.Linear(config.width * s.segments, s.out) for s in tasks})

    def forward(self, features: Tokens, task: str) -> Tensor:
        keys, values = self.trunk(features.tokens).chunk(2, dim=-1)  # each (batch, segment, time, width)
        weights = (keys.tanh() @ self.queries[task]).masked_fill(~features.mask, float("-inf")).softmax(-1)
        sentences = (weights.unsqueeze(-1) * values).sum(-2)  # (batch, segment, width)
        return finish(self.branches[task](self.dropout(joined(sentences))), self.shapes[task])


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    return [HeadSpec("attention-example", "A learned query over word pieces.", Attention, Config, reads=Tokens)]
