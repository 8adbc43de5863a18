"""Layers of torch that are slow on a CPU, and the same sums done faster: for as long as a head is trained.

A head is written with torch's own layers, and is drawn, counted and scored with them. In the steps of a training they
do the same by other means (results/LOG.md says what each buys). What is not covered here runs as torch has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@contextmanager
def fast_cpu_layers(modules: nn.Module) -> Iterator[None]:
    """Let the layers of `modules` compute the quick way, and as ever afterwards."""
    stock = [(module, type(module)) for module in modules.modules() if type(module) in _QUICK]
    for module, kind in stock:
        module.__class__ = _QUICK[kind]
    try:
        yield
    finally:
        for module, kind in stock:
            module.__class__ = kind


class _Dropout(nn.Dropout):
    """Dropout that draws four decisions from 64 random bits; torch draws one.

    The rate is rounded to a multiple of 1/65536. Kept values are scaled by the rounded rate, so the mean is exact.
    """

    def forward(self, input: Tensor) -> Tensor:
        cut = round(self.p * 65536)
        if not (self.training and 0 < cut < 65536 and input.is_cpu) or self.inplace:
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = words.view(torch.int16)[: input.numel()].view(input.shape) >= cut - 32768
        return input * keep.to(input.dtype).mul_(65536 / (65536 - cut))


class _MaxPool1d(nn.MaxPool1d):
    """Torch's kernel that keeps indices takes ten times as long as the one that does not."""

    def forward(self, input: Tensor) -> Any:
        size = self.kernel_size
        plain = isinstance(size, int) and self.stride == size and not self.padding and self.dilation == 1
        covered = plain and not self.return_indices and not self.ceil_mode
        if not (covered and input.is_cpu and input.requires_grad):
            return super().forward(input)
        return _Loudest.apply(input, size)  # type: ignore[no-untyped-call]


class _Loudest(torch.autograd.Function):
    """(…, time) to (…, time // size); of equal values the first has the gradient, as in torch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: int) -> Tensor:
        best = F.max_pool1d(x, size)
        ctx.save_for_backward(x, best)
        ctx.size = size
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, best = ctx.saved_tensors
        end = best.shape[-1] * ctx.size
        result = torch.empty_like(x)
        result[..., end:] = 0
        for place in range(ctx.size - 1):
            into = result[..., place : end : ctx.size]
            torch.mul(gradient, x[..., place : end : ctx.size] == best, out=into)
            gradient = gradient - into  # what is left is for a later place
        result[..., ctx.size - 1 : end : ctx.size] = gradient
        return result, None


_QUICK: dict[type[nn.Module], type[nn.Module]] = {nn.Dropout: _Dropout, nn.MaxPool1d: _MaxPool1d}
