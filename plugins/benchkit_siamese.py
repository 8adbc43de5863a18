"""The standard for sentence pairs: one network for both sentences, then an MLP that sees how they differ.

Sources: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations" (InferSent), section 3.1;
Reimers & Gurevych 2019, "Sentence-BERT".
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from benchkit.branch import BranchConfig, asked_loss, branches
from benchkit.features import Pooled
from benchkit.head import HeadSpec, option
from benchkit.hookspecs import hookimpl
from benchkit.task import TaskShape


@dataclass(frozen=True)
class SiameseConfig(BranchConfig):
    width: int = option(512, low=32, high=1024, log=True, help="features of the shared linear")


class Siamese(nn.Module):
    def __init__(self, config: SiameseConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        # Layers of an encoder differ in scale by an order of magnitude; side by side, the loudest would drown the rest.
        self.trunk = nn.Sequential(nn.LayerNorm(hidden), nn.Dropout(config.dropout), nn.Linear(hidden, config.width))
        self.branches = branches(config, config.width, tasks)

    def forward(self, features: Pooled, task: str) -> Tensor:
        outputs: Tensor = self.branches[task](self.trunk(features.pooled))
        return outputs


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    summary = "[u; v; |u−v|; u*v] of a shared linear, an MLP a task."
    return [HeadSpec("siamese", summary, Siamese, SiameseConfig, loss=asked_loss)]
