"""`attend` as an operator of torch, `torch.ops.benchkit.short_attention`, which `torch.compile` takes as a whole.

To be imported by whoever compiles: an operator is there for the whole process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchkit.encoder import attention as fused


@torch.library.custom_op("benchkit::short_attention", mutates_args=())
def attend(qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None) -> Tensor:
    return fused.attend(qkv, starts, lengths, longest, dropout, seed)


@attend.register_fake
def _(qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None) -> Tensor:
    return qkv.new_empty(qkv.shape[0], *qkv.shape[2:])


@torch.library.custom_op("benchkit::short_attention_backward", mutates_args=())
def attend_backward(
    qkv: Tensor, gradient: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None
) -> Tensor:
    return fused.attend_backward(qkv, gradient, starts, lengths, longest, dropout, seed)


@attend_backward.register_fake
def _(
    qkv: Tensor, gradient: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None
) -> Tensor:
    return torch.empty_like(qkv)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, starts, lengths, ctx.longest, ctx.dropout, seed = inputs
    ctx.save_for_backward(qkv, starts, lengths, seed)


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    qkv, starts, lengths, seed = ctx.saved_tensors
    found = attend_backward(qkv, gradient, starts, lengths, ctx.longest, ctx.dropout, seed)
    return found, None, None, None, None, None


attend.register_autograd(_back, setup_context=_keep)
