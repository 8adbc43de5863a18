"""Attention over packed sentences by one kernel, with no padding: where the GPU and this torch have it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchkit.encoder.layout import Layout


def usable(qkv: Tensor, dropout: float) -> bool:
    """Flash attention's terms: CUDA from compute capability 8.0, half precision, no dropout, a width that it takes.

    Args:
        qkv: (total, 3, heads, dim).
    """
    if not qkv.is_cuda or dropout or qkv.dtype not in (torch.bfloat16, torch.float16) or _kernel() is None:
        return False
    width = qkv.shape[-1]
    return width % 8 == 0 and width <= 256 and torch.cuda.get_device_capability(qkv.device) >= (8, 0)


def attend_packed(qkv: Tensor, layout: Layout) -> Tensor:
    """(total, 3, heads, dim) to (total, heads, dim); only where it is `usable`."""
    kernel = _kernel()
    assert kernel is not None
    bounds, longest = layout.bounds, layout.longest
    mixed: Tensor = kernel(*qkv.unbind(1), bounds, bounds, longest, longest)
    return mixed


@cache
def _kernel() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None
    return varlen_attn
