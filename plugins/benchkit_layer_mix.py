"""Each task mixes the encoder's layers by weights of its own, then compares like `siamese`.

Source: Peters et al. 2018, "Deep contextualized word representations" (ELMo), section 3.2: a softmax over layers and a
scale, learned per task.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchkit.branch import BranchConfig, asked_loss, branches
from benchkit.features import Layers
from benchkit.head import HeadSpec, option
from benchkit.hookspecs import hookimpl
from benchkit.task import TaskShape


@dataclass(frozen=True)
class LayerMixConfig(BranchConfig):
    width: int = option(512, low=32, high=1024, log=True, help="features of the shared linear")


class Mix(nn.Module):
    """A weighted mean of layers, times a learned scale."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, layers: Tensor) -> Tensor:
        """(…, layer, hidden) -> (…, hidden)."""
        return self.scale * (self.weights.softmax(0) @ layers)


class LayerMix(nn.Module):
    def __init__(self, config: LayerMixConfig, hidden: int, tasks: tuple[TaskShape, ...], layers: int) -> None:
        super().__init__()
        # Without an affine part of its own, which the shared linear would repeat: a layer counts as much as its weight.
        self.norm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.mixes = nn.ModuleDict({each.name: Mix(layers) for each in tasks})
        self.trunk = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(hidden, config.width))
        self.branches = branches(config, config.width, tasks)

    def forward(self, features: Layers, task: str) -> Tensor:
        mixed = self.mixes[task](self.norm(features.layers))  # (batch, segment, hidden)
        outputs: Tensor = self.branches[task](self.trunk(mixed))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "A learned mix of all layers a task, a shared linear, an MLP a task."
    return [HeadSpec("layer-mix", summary, LayerMix, LayerMixConfig, Layers, loss=asked_loss)]
