"""bf16 copies of an encoder's matrices, made and read by a few kernels a step.

Under autocast every matrix is cast for itself, and so is its gradient on the way back: some two hundred kernels a step
that do little. The numbers are the same: the same weights are rounded, and the same gradients widened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

_KINDS = ("weight", "bias")


class Halves:
    """Copies of the weights of all linear layers, to be computed with in place of these; the masters stay float32."""

    def __init__(self, model: nn.Module) -> None:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "pooler"]
        self.masters = {f"{name}.{kind}": model.get_parameter(f"{name}.{kind}") for name in linear for kind in _KINDS}
        self.copies = {
            name: each.detach().to(torch.bfloat16).requires_grad_(each.requires_grad)
            for name, each in self.masters.items()
        }

    def weights(self) -> Mapping[str, Tensor]:
        """The copies, without gradients: what a step begins with."""
        for each in self.copies.values():
            each.grad = None
        return self.copies

    @torch.no_grad()
    def refresh(self, only: Collection[str] | None = None) -> None:
        """Make the copies, or those of these names, equal to the masters again."""
        names = list(self.copies if only is None else only)
        if names:
            torch._foreach_copy_([self.copies[name] for name in names], [self.masters[name] for name in names])

    @torch.no_grad()
    def settle(self, only: Collection[str] | None = None) -> None:
        """Give the masters, or those of these names, the gradients that the copies have."""
        names = [name for name in (self.copies if only is None else only) if self.copies[name].grad is not None]
        if not names:
            return
        wide = [torch.empty_like(self.masters[name]) for name in names]
        torch._foreach_copy_(wide, [each for name in names if (each := self.copies[name].grad) is not None])
        for name, gradient in zip(names, wide, strict=True):
            self.masters[name].grad = gradient
