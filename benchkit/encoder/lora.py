"""LoRA (Hu et al. 2021): low-rank changes of an encoder's matrices, which are frozen themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from benchkit.encoder.bert import MiniBert

SCALE = 2.0
"""What a change is multiplied with: alpha over rank in the paper's terms."""


class LowRank(nn.Module):
    """A change `up @ down` of rank `rank` for each matrix of the transformer layers; zero at first.

    In `train()` the whole encoder is in train mode, dropout included.

    Attributes:
        down: by number of the matrix, (rank, in).
        up: (out, rank), zeros at first.
    """

    def __init__(self, model: MiniBert, rank: int) -> None:
        super().__init__()
        self.model = (model,)  # in a tuple, so that it is no part of this module
        self.names = [
            f"layers.{name}.weight" for name, each in model.layers.named_modules() if isinstance(each, nn.Linear)
        ]
        shapes = [model.get_parameter(name).shape for name in self.names]
        device = model.word.weight.device
        self.down = nn.ParameterList(torch.randn(rank, width) / width**0.5 for _, width in shapes)
        self.up = nn.ParameterList(torch.zeros(out, rank) for out, _ in shapes)
        self.to(device)

    def train(self, mode: bool = True) -> Self:
        self.model[0].train(mode)
        return super().train(mode)

    def weights(self) -> dict[str, Tensor]:
        """The changed matrices by name, with gradients to `up` and `down`."""
        found = {}
        for name, up, down in zip(self.names, self.up, self.down, strict=True):
            found[name] = self.model[0].get_parameter(name) + SCALE * (up @ down)
        return found

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the changed matrices meanwhile."""
        kept = {name: self.model[0].get_parameter(name).detach().clone() for name in self.names}
        self.merge()
        try:
            yield
        finally:
            self._set(kept)

    def merge(self) -> None:
        """Give the model the changed matrices for good."""
        with torch.no_grad():
            self._set(self.weights())

    @torch.no_grad()
    def _set(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.model[0].get_parameter(name).copy_(value)
