"""The report's baseline: one shared linear, then one linear a task, or the cosine of two short vectors.

Source: Michaels, "miniBERT and Multitasking: An Architectural Analysis", section Architectures (Figure 1).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from benchkit import HeadSpec, Pooled, TaskShape, hookimpl, option
from benchkit.nn.blocks import SCORES, ScaledCosine, cosine_score, finish, joined


@dataclass(frozen=True)
class BaselineConfig:
    width: int = option(400, low=32, high=1024, log=True, help="features of the shared linear")
    embedding: int = option(13, low=4, high=256, log=True, help="features of the vectors that are compared by cosine")
    dropout: float = option(0.3, low=0.0, high=0.6, help="before each linear")
    score: str = option("cosine", choices=SCORES, help="how a pair is scored; the report's: cosine")


class Baseline(nn.Module):
    def __init__(self, config: BaselineConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.score, self.shapes = config.score, {shape.name: shape for shape in tasks}
        self.dropout = nn.Dropout(config.dropout)
        # The report's 307,200 weights at hidden 768 are 768 * 400: there is no bias.
        self.trunk = nn.Linear(hidden, config.width, bias=False)
        self.branches = nn.ModuleDict({shape.name: self._branch(config, shape) for shape in tasks})
        scaled = [shape for shape in tasks if self._compares(shape) and config.score == "scaled-cosine"]
        self.scaled = nn.ModuleDict({shape.name: ScaledCosine(shape) for shape in scaled})

    def forward(self, features: Pooled, task: str) -> Tensor:
        shape, branch = self.shapes[task], self.branches[task]
        shared = self.dropout(self.trunk(self.dropout(features.pooled)))  # (batch, segment, width)
        if not self._compares(shape):
            return finish(branch(joined(shared)), shape)
        vectors = branch(shared)
        return self.scaled[task](vectors) if task in self.scaled else cosine_score(vectors, shape)

    def _branch(self, config: BaselineConfig, shape: TaskShape) -> nn.Linear:
        if self._compares(shape):
            return nn.Linear(config.width, config.embedding)
        return nn.Linear(config.width * shape.segments, shape.out)

    def _compares(self, shape: TaskShape) -> bool:
        return shape.segments == 2 and not shape.classes and self.score != "linear"


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    return [HeadSpec("baseline", "Shared linear; a linear or a cosine a task.", Baseline, BaselineConfig)]
