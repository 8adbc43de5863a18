"""Each task mixes the encoder's layers by weights of its own, then compares like `siamese`.

Source: Peters et al. 2018, "Deep contextualized word representations" (ELMo), section 3.2: a softmax over layers and a
scale, learned per task.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchkit import HeadSpec, Layers, TaskShape, hookimpl, option
from benchkit.nn.blocks import BranchConfig, asked_loss, branches


@dataclass(frozen=True)
class LayerMixConfig(BranchConfig):
    mixes: int = option(3, low=1, high=4, help="mixes a task, side by side")


class Mixes(nn.Module):
    """Weighted means of layers, each times a learned scale.

    One mix starts as the mean of all layers. Several would all stay the same if they started so: they start near layers
    evenly spaced from the first to the last.
    """

    def __init__(self, mixes: int, layers: int) -> None:
        super().__init__()
        start = torch.zeros(mixes, layers)
        if mixes > 1:
            nearest = torch.linspace(0, layers - 1, mixes)
            start = -(torch.arange(layers) - nearest[:, None]).abs()
        self.weights = nn.Parameter(start)
        self.scales = nn.Parameter(torch.ones(mixes, 1))

    def forward(self, layers: Tensor) -> Tensor:
        """(batch, segment, layer, hidden) -> (batch, segment, mixes * hidden)."""
        return (self.scales * self.weights.softmax(1) @ layers).flatten(2)


class LayerMix(nn.Module):
    def __init__(self, config: LayerMixConfig, hidden: int, tasks: tuple[TaskShape, ...], layers: int) -> None:
        super().__init__()
        # Each layer by itself: they differ in scale, and a layer shall count as much as its weight says.
        self.trunk = nn.LayerNorm(hidden)
        self.mixes = nn.ModuleDict({each.name: Mixes(config.mixes, layers) for each in tasks})
        self.branches = branches(config, config.mixes * hidden, tasks)

    def forward(self, features: Layers, task: str) -> Tensor:
        outputs: Tensor = self.branches[task](self.mixes[task](self.trunk(features.layers)))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "Learned mixes of all layers, compared by an MLP a task."
    return [HeadSpec("layer-mix", summary, LayerMix, LayerMixConfig, Layers, loss=asked_loss)]
