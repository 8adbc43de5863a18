"""The report's convolutional head: a shared convolution over the features, a second one a task, then linears.

Source: Michaels, "miniBERT and Multitasking: An Architectural Analysis", section Architectures (Figure 3).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from benchkit import HeadSpec, Pooled, TaskShape, hookimpl, option
from benchkit.nn.blocks import SCORES, ScaledCosine, cosine_score, finish, joined


@dataclass(frozen=True)
class CnnConfig:
    channels: int = option(8, low=2, high=32, log=True, help="channels of the shared convolution")
    wide_channels: int = option(16, low=4, high=64, log=True, help="channels of a branch's convolution")
    kernel_size: int = option(3, choices=(1, 3, 5, 7, 9), help="filter size of both convolutions")
    pool: int = option(2, choices=(1, 2, 4, 8), help="max-pooling after a branch's convolution")
    linear: int = option(64, low=16, high=512, log=True, help="features between a branch's two linears")
    embedding: int = option(13, low=4, high=256, log=True, help="features of the vectors that are compared by cosine")
    dropout: float = option(0.3, low=0.0, high=0.6, help="in the trunk and in the branches")
    score: str = option("cosine", choices=SCORES, help="how a pair is scored; the report's: cosine")


class Cnn(nn.Module):
    def __init__(self, config: CnnConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.score, self.shapes = config.score, {shape.name: shape for shape in tasks}
        self.trunk = nn.Sequential(_convolution(1, config.channels, config), nn.ReLU(), nn.Dropout(config.dropout))
        self.branches = nn.ModuleDict({shape.name: self._branch(config, hidden, shape) for shape in tasks})
        pairs = [shape for shape in tasks if shape.segments == 2 and not shape.classes]
        scaled = pairs if config.score == "scaled-cosine" else []
        self.scaled = nn.ModuleDict({shape.name: ScaledCosine(shape) for shape in scaled})

    def forward(self, features: Pooled, task: str) -> Tensor:
        shape, branch = self.shapes[task], self.branches[task]
        batch, segment, hidden = features.pooled.shape
        maps = self.trunk(features.pooled.reshape(batch * segment, 1, hidden))  # (batch*segment, channels, hidden)
        if self._is_linear(shape):
            return finish(branch(joined(maps.reshape(batch, segment, -1))), shape)
        vectors = branch(maps).reshape(batch, segment, -1)
        if segment == 1:
            return finish(vectors.squeeze(1), shape)
        return self.scaled[task](vectors) if task in self.scaled else cosine_score(vectors, shape)

    def _branch(self, config: CnnConfig, hidden: int, shape: TaskShape) -> nn.Module:
        if self._is_linear(shape):
            return nn.Linear(config.channels * hidden * shape.segments, shape.out)
        return _convolutions(shape, config, hidden)

    def _is_linear(self, shape: TaskShape) -> bool:
        """A pair whose maps go to one linear: all that are to be classified."""
        return shape.segments == 2 and (shape.classes > 0 or self.score == "linear")


def _convolution(inputs: int, outputs: int, config: CnnConfig) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, config.kernel_size, padding=config.kernel_size // 2)


def _convolutions(shape: TaskShape, config: CnnConfig, hidden: int) -> nn.Module:
    return nn.Sequential(
        _convolution(config.channels, config.wide_channels, config),
        nn.BatchNorm1d(config.wide_channels),
        nn.ReLU(),
        nn.MaxPool1d(config.pool),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(config.wide_channels * (hidden // config.pool), config.linear),
        nn.ReLU(),
        nn.Linear(config.linear, config.embedding if shape.segments == 2 else shape.out),
    )


@hookimpl
def benchkit_heads() -> list[HeadSpec]:
    return [HeadSpec("cnn", "Two convolutions over the features, pooling, linears; cosine for pairs.", Cnn, CnnConfig)]
