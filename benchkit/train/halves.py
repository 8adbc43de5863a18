"""bf16 copies of an encoder's matrices, made and read by a few kernels a step.

Under autocast every matrix is cast for itself, and so is its gradient on the way back: some two hundred kernels a step
that do little. The numbers are the same: the same weights are rounded, and the same gradients widened.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Halves:
    """Copies of the weights of all linear layers, to be computed with in place of these; the masters stay float32."""

    def __init__(self, model: nn.Module) -> None:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "pooler"]
        self.masters = {f"{name}.{kind}": model.get_parameter(f"{name}.{kind}") for name in linear for kind in _KINDS}
        self.copies = {
            name: each.detach().to(torch.bfloat16).requires_grad_(each.requires_grad)
            for name, each in self.masters.items()
        }

    @torch.no_grad()
    def refresh(self) -> Mapping[str, Tensor]:
        """The copies, equal to the masters again."""
        torch._foreach_copy_(list(self.copies.values()), list(self.masters.values()))
        for each in self.copies.values():
            each.grad = None
        return self.copies

    @torch.no_grad()
    def settle(self) -> None:
        """Give the masters the gradients that the copies have."""
        moved = [(self.masters[name], each.grad) for name, each in self.copies.items() if each.grad is not None]
        wide = [torch.empty_like(master) for master, _ in moved]
        if moved:
            torch._foreach_copy_(wide, [gradient for _, gradient in moved])
        for (master, _), gradient in zip(moved, wide, strict=True):
            master.grad = gradient


_KINDS = ("weight", "bias")
