"""Where the kernels of `benchkit.encoder.kernels` can be used, and using them: with gradients, compiled, captured."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

LONGEST = 128  # word pieces of a sentence whose scores fit one program


@cache
def available() -> bool:
    """Triton is installed, and there is a GPU for it, or it is told to interpret (`TRITON_INTERPRET=1`)."""
    if find_spec("triton") is None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def inferring(x: Tensor) -> bool:
    """Whether `add_norm` takes the place of torch's own: on a GPU, where nobody needs the old values."""
    return x.is_cuda and not torch.is_grad_enabled() and x.is_contiguous() and available()


def short(longest: int, device: torch.device) -> bool:
    """Whether `attend_rows` takes sentences of up to `longest` word pieces: on a GPU, if they are short."""
    return device.type == "cuda" and longest <= LONGEST and available()


def attend_rows(qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float) -> Tensor:
    """Attention within sentences: (total, 3, heads, width) to (total, heads, width); zero for word pieces of none.

    Args:
        starts, lengths: (rows,) int32, on the device; sentences follow each other without gaps.
        longest: no length is above it; at most `LONGEST`.
        dropout: of attention's weights; draws one number from the device's generator.
    """
    seed = torch.randint(0, 2**31 - 1, (1,), dtype=torch.int64, device=qkv.device) if dropout else None
    found: Tensor = _attend(qkv, starts, lengths, longest, dropout, seed)
    return found


@torch.library.custom_op("benchkit::attend", mutates_args=())
def _attend(qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None) -> Tensor:
    from benchkit.encoder.kernels import attend_forward

    out = qkv.new_empty(qkv.shape[0], *qkv.shape[2:])
    _launch(attend_forward, (qkv, out), qkv, starts, lengths, longest, dropout, seed)
    return out


@_attend.register_fake
def _(qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None) -> Tensor:
    return qkv.new_empty(qkv.shape[0], *qkv.shape[2:])


@torch.library.custom_op("benchkit::attend_backward", mutates_args=())
def _attend_backward(
    qkv: Tensor, gradient: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None
) -> Tensor:
    from benchkit.encoder.kernels import attend_backward

    into = torch.empty_like(qkv)
    _launch(attend_backward, (qkv, gradient.contiguous(), into), qkv, starts, lengths, longest, dropout, seed)
    return into


@_attend_backward.register_fake
def _(
    qkv: Tensor, gradient: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None
) -> Tensor:
    return torch.empty_like(qkv)


def _launch(
    kernel: Any,
    tensors: tuple[Tensor, ...],
    qkv: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    dropout: float,
    seed: Tensor | None,
) -> None:
    total, _, heads, width = qkv.shape
    block = max(16, 1 << (longest - 1).bit_length())
    rows, spare = len(starts), starts if seed is None else seed
    scale = width**-0.5
    kernel[(rows + 1, heads)](
        *tensors, starts, lengths, spare, rows, total, scale, dropout, heads=heads, width=width, block=block,
        columns=max(16, 1 << (width - 1).bit_length()), drops=seed is not None, num_warps=max(1, block // 16),
    )  # fmt: skip


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, starts, lengths, ctx.longest, ctx.dropout, seed = inputs
    ctx.save_for_backward(qkv, starts, lengths, seed)


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    qkv, starts, lengths, seed = ctx.saved_tensors
    found = _attend_backward(qkv, gradient, starts, lengths, ctx.longest, ctx.dropout, seed)
    return found, None, None, None, None, None


_attend.register_autograd(_back, setup_context=_keep)


def add_norm(x: Tensor, change: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    """`norm(x + change)` by one kernel, without gradients: (total, hidden) each, of one type."""
    from benchkit.encoder.kernels import add_norm as kernel

    total, width = x.shape
    out = torch.empty_like(x)
    columns = 1 << (width - 1).bit_length()
    kernel[(total,)](
        x, change, norm.weight, norm.bias, out, norm.eps, width=width, columns=columns, num_warps=max(1, columns // 256)
    )
    return out
