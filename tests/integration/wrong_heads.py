"""Heads with one fault each, for `test_testing.py`: what every check must find. `Sound` is what they all start from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import option
from benchkit.core.task import TaskShape
from benchkit.nn.blocks import finish


@dataclass(frozen=True)
class Config:
    width: int = option(8, low=4, high=16, log=True)
    dropout: float = option(0.1, low=0.0, high=0.5)


class Sound(nn.Module):
    """[u; v; |u - v|; u * v] of one linear, and a linear a task."""

    def __init__(self, config: Any, hidden: int, tasks: tuple[TaskShape, ...], layers: int = 1) -> None:
        super().__init__()
        self.shapes = {shape.name: shape for shape in tasks}
        self.trunk = nn.Linear(hidden, config.width)
        self.dropout = nn.Dropout(config.dropout)
        wide = {1: config.width, 2: self.parts * config.width}
        self.branches = nn.ModuleDict({shape.name: nn.Linear(wide[shape.segments], shape.out) for shape in tasks})

    parts = 4

    def vectors(self, features: Any) -> Tensor:
        """(batch, segment, hidden)."""
        pooled: Tensor = features.pooled
        return pooled

    def pair(self, u: Tensor, v: Tensor) -> list[Tensor]:
        return [u, v, (u - v).abs(), u * v]

    def forward(self, features: Pooled, task: str) -> Tensor:
        shared = self.dropout(self.trunk(self.vectors(features)).tanh())
        u, *rest = shared.unbind(1)
        vector = torch.cat(self.pair(u, *rest), dim=-1) if rest else u
        return finish(self.branches[task](vector), self.shapes[task])


class SoundTokens(Sound):
    def vectors(self, features: Tokens) -> Tensor:
        return features.tokens.sum(2) / features.mask.sum(2, keepdim=True)


class SoundLayers(Sound):
    def __init__(self, config: Any, hidden: int, tasks: tuple[TaskShape, ...], layers: int) -> None:
        super().__init__(config, hidden, tasks)
        self.mix = nn.Parameter(torch.zeros(layers))

    def vectors(self, features: Layers) -> Tensor:
        return torch.einsum("bslh,l->bsh", features.layers, self.mix.softmax(0))


class SoundSymmetric(Sound):
    parts = 3

    def pair(self, u: Tensor, v: Tensor) -> list[Tensor]:
        return [u + v, (u - v).abs(), u * v]


class GatedShut(Sound):
    """Right though its trunk has no gradient until the gate opens."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gate = nn.Parameter(torch.zeros(()))

    def vectors(self, features: Pooled) -> Tensor:
        return features.pooled * (1 + self.gate)


class Flat(Sound):
    """Forgets the last axis."""

    def forward(self, features: Pooled, task: str) -> Tensor:
        return super().forward(features, task).squeeze(-1)


class NoBatchOfOne(Sound):
    def vectors(self, features: Pooled) -> Tensor:
        return features.pooled.squeeze(0).view(-1, *features.pooled.shape[1:]) / min(len(features.pooled) - 1, 1)


class NeedsAFirstTask(Sound):
    def forward(self, features: Pooled, task: str) -> Tensor:
        _ = self.branches["unseen_class"]
        return super().forward(features, task)


class Unbounded(Sound):
    def forward(self, features: Pooled, task: str) -> Tensor:
        outputs: Tensor = self.branches[task](torch.cat(self._all(features), dim=-1))
        return outputs

    def _all(self, features: Pooled) -> list[Tensor]:
        u, *rest = self.dropout(self.trunk(features.pooled)).unbind(1)
        return self.pair(u, *rest) if rest else [u]


class ReadsTokens(Sound):
    def vectors(self, features: Any) -> Tensor:
        vectors: Tensor = features.tokens.mean(2)
        return vectors


class ReadsTokensIfThere(Sound):
    def vectors(self, features: Any) -> Tensor:
        vectors: Tensor = features.tokens.mean(2) if hasattr(features, "tokens") else features.pooled
        return vectors


class Leaky(Sound):
    """Normalises over the batch, in eval mode too."""

    def vectors(self, features: Pooled) -> Tensor:
        return features.pooled - features.pooled.mean(0, keepdim=True)


class CountsPadding(Sound):
    def vectors(self, features: Tokens) -> Tensor:
        return features.tokens.mean(2)


class FirstSentenceOnly(Sound):
    def pair(self, u: Tensor, v: Tensor) -> list[Tensor]:
        return [u, u, u.abs(), u * u]


class InPlace(Sound):
    def vectors(self, features: Pooled) -> Tensor:
        with torch.no_grad():
            features.pooled.abs_()
        return features.pooled


class Detached(Sound):
    def vectors(self, features: Pooled) -> Tensor:
        return features.pooled.detach()


class Idle(Sound):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.spare = nn.Linear(2, 2)


class TrunkOfSome(Sound):
    """Its trunk is not shared: classifications go past it."""

    def __init__(self, config: Any, hidden: int, tasks: tuple[TaskShape, ...], layers: int = 1) -> None:
        super().__init__(config, hidden, tasks)
        self.other = nn.Linear(hidden, config.width)

    def forward(self, features: Pooled, task: str) -> Tensor:
        if not self.shapes[task].classes:
            return super().forward(features, task)
        u, *rest = self.dropout(self.other(self.vectors(features)).tanh()).unbind(1)
        outputs: Tensor = self.branches[task](torch.cat(self.pair(u, *rest), dim=-1) if rest else u)
        return outputs


class NumpyWeights(Sound):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        noise = np.random.randn(*self.trunk.weight.shape)  # noqa: NPY002 - the fault
        self.trunk.weight.data.copy_(torch.from_numpy(noise))


class OwnGenerator(Sound):
    generator = torch.Generator()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.trunk.weight.data.normal_(generator=self.generator)


class OwnDropout(Sound):
    generator = torch.Generator()

    def vectors(self, features: Pooled) -> Tensor:
        kept = torch.rand(features.pooled.shape, generator=self.generator) > 0.3
        return features.pooled * kept if self.training else features.pooled


class PythonDropout(Sound):
    def vectors(self, features: Pooled) -> Tensor:
        return features.pooled * (random.random() > -1)


class SeedsItself(Sound):
    def __init__(self, *args: Any) -> None:
        torch.manual_seed(0)
        super().__init__(*args)


class DropoutAlwaysOn(Sound):
    def vectors(self, features: Pooled) -> Tensor:
        return F.dropout(features.pooled, 0.3)


class HiddenState(Sound):
    """Learns something that is no parameter and no buffer."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.mean = torch.zeros(())

    def vectors(self, features: Pooled) -> Tensor:
        if self.training:
            self.mean = features.pooled.detach().mean() + 1
        return features.pooled - self.mean


class Fp32Only(Sound):
    """Multiplies by a float32 constant, whatever comes."""

    def vectors(self, features: Pooled) -> Tensor:
        vectors: Tensor = F.linear(features.pooled, torch.eye(features.pooled.shape[-1]))
        return vectors


class Rough(Sound):
    """Loses its digits in bf16."""

    def vectors(self, features: Pooled) -> Tensor:
        large = 300 * torch.ones_like(features.pooled)  # spacing 2 in bf16: what is added drowns
        return 8 * ((features.pooled + large) - large)


class OtherwiseCompiled(Sound):
    def vectors(self, features: Pooled) -> Tensor:
        return features.pooled * (2 if torch.compiler.is_compiling() else 1)


@dataclass(frozen=True)
class WideConfig:
    width: int = option(8, low=1, high=16)


class NeedsAnEvenWidth(Sound):
    def __init__(self, config: WideConfig, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        if config.width % 2:
            raise ValueError("the width must be even")
        super().__init__(Config(config.width), hidden, tasks)


@dataclass(frozen=True)
class PickyConfig:
    width: int = option(8, low=4, high=64)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width > 32:
            raise ValueError("width must be at most 32")


@dataclass(frozen=True)
class OffRangeConfig:
    width: int = option(8, low=16, high=32)
    dropout: float = 0.1


@dataclass(frozen=True)
class LossyConfig:
    """JSON knows no complex numbers."""

    width: int = 8
    dropout: float = 0.1
    kinds: tuple[complex, ...] = (1j,)


@dataclass
class OpenConfig:
    width: int = 8
    dropout: float = 0.1
