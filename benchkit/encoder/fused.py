"""Where the kernels of `benchkit.encoder.kernels` can be used, and using them, with gradients and without."""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

LONGEST = 128  # word pieces of a sentence whose scores fit one program


@cache
def available() -> bool:
    """Triton is there and can compile for the GPU, or is told to interpret (`TRITON_INTERPRET=1`)."""
    if find_spec("triton") is None:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return True
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        return False
    try:
        few = torch.ones(2, 16, device="cuda")
        add_norm(few, few, nn.LayerNorm(16, device="cuda"))
    except Exception as error:  # noqa: BLE001 - it takes a C compiler and Python's headers, and says so in many ways
        why = " ".join(str(error).split())
        logging.getLogger("benchkit").warning("Triton cannot compile here, so kernels are torch's own: %.200s", why)
        return False
    return True


def kernels() -> str:
    """What takes part in a key, since numbers change with it: Triton's version where its kernels are used, or ""."""
    return version("triton") if torch.cuda.is_available() and available() else ""


def inferring(x: Tensor) -> bool:
    """Whether `add_norm` takes the place of torch's own: on a GPU, where nobody needs the old values."""
    return x.is_cuda and not torch.is_grad_enabled() and x.is_contiguous() and available()


def short(longest: int, device: torch.device) -> bool:
    """Whether `attend_rows` takes sentences of up to `longest` word pieces: on a GPU, if they are short."""
    return device.type == "cuda" and longest <= LONGEST and available() and longest <= _fits(device)


@cache
def _fits(device: torch.device) -> int:
    """The way back of 128 word pieces takes more shared memory than a block has on cards below an A100."""
    shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)  # no stub knows it
    return 128 if shared >= 160 * 1024 else 64


def attend_rows(qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float) -> Tensor:
    """Attention within sentences: (total, 3, heads, width) to (total, heads, width); zero for word pieces of none.

    Args:
        starts, lengths: (rows,) int32, on the device, at least one; sentences follow each other without gaps.
        longest: no length is above it; at most `LONGEST`.
        dropout: of attention's weights; draws one number from the device's generator.
    """
    seed = torch.randint(0, 2**31 - 1, (1,), dtype=torch.int64, device=qkv.device) if dropout else None
    found: Tensor
    if torch.compiler.is_compiling():
        found = torch.ops.benchkit.short_attention(qkv, starts, lengths, longest, dropout, seed)  # see `fused_op`
    elif torch.is_grad_enabled() and qkv.requires_grad:
        found = _Attend.apply(qkv, starts, lengths, longest, dropout, seed)  # type: ignore[no-untyped-call]
    else:
        found = attend(qkv, starts, lengths, longest, dropout, seed)
    return found


class _Attend(torch.autograd.Function):
    """As `attend`, with gradients. Not the operator of `fused_op`, whose first call loads torch's compiler."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, *given: Any) -> Tensor:
        starts, lengths, ctx.longest, ctx.dropout, seed = given
        ctx.save_for_backward(qkv, starts, lengths, seed)
        return attend(qkv, starts, lengths, ctx.longest, ctx.dropout, seed)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        qkv, starts, lengths, seed = ctx.saved_tensors
        found = attend_backward(qkv, gradients[0], starts, lengths, ctx.longest, ctx.dropout, seed)
        return found, None, None, None, None, None


def attend(qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None) -> Tensor:
    """`attend_rows` without gradients, dropout's decisions from `seed`, (1,) int64."""
    from benchkit.encoder.kernels import attend_forward

    out = qkv.new_empty(qkv.shape[0], *qkv.shape[2:])
    _launch(attend_forward, (qkv, out), qkv, starts, lengths, longest, dropout, seed)
    return out


def attend_backward(
    qkv: Tensor, gradient: Tensor, starts: Tensor, lengths: Tensor, longest: int, dropout: float, seed: Tensor | None
) -> Tensor:
    """The gradient of `qkv`, from that of what `attend` gave."""
    from benchkit.encoder.kernels import attend_backward as kernel

    into = torch.empty_like(qkv)
    _launch(kernel, (qkv, gradient.contiguous(), into), qkv, starts, lengths, longest, dropout, seed)
    return into


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


def add_norm(x: Tensor, change: Tensor, norm: nn.LayerNorm) -> Tensor:
    """`norm(x + change)` by one kernel, without gradients: (total, hidden) each, of one type."""
    from benchkit.encoder.kernels import add_norm as kernel

    total, width = x.shape
    out = torch.empty_like(x)
    columns = 1 << (width - 1).bit_length()
    kernel[(total,)](
        x, change, norm.weight, norm.bias, out, norm.eps, width=width, columns=columns, num_warps=max(1, columns // 256)
    )
    return out
