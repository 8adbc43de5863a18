"""Attention over packed batches: where each input lies, and the fastest implementation that a device has."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache, cached_property
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device` of a tensor on the CPU; to a GPU without waiting for what it is at."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Layout:
    """The lengths of packed sentences, equal ones next to each other.

    Args:
        lengths: (rows,) int64 on the CPU, sorted: the fewer groups, the faster.
        device: where the packed tensors are.
        padded: attention and pooling pad to the longest sentence (a few large kernels: GPUs) and mask, instead of
            going through the groups (no work on padding: CPUs). Everything else is packed in either case, and attention
            too where a GPU has a kernel for it (`varlen`).
    """

    fixed = False
    lengths_there: Tensor  # `lengths` on the device
    short: bool  # there is a kernel for sentences as short as these, which goes before any other way

    def __init__(self, lengths: Tensor, device: torch.device | str = "cpu", padded: bool = False) -> None:
        self.lengths, self.device, self.padded = lengths, torch.device(device), padded
        self.rows, self.total = len(lengths), int(lengths.sum())
        self.longest = int(lengths.max()) if self.rows else 0
        ends = lengths.cumsum(0)
        starts = ends - lengths
        within = torch.arange(self.total) - starts.repeat_interleave(lengths)
        # One transfer to the device for all three.
        slots = (torch.arange(self.rows) * self.longest).repeat_interleave(lengths) + within
        self.positions, self.slots = send(torch.stack([within, slots]), self.device)
        self.starts, self.lengths_there = send(torch.stack([starts, lengths]), self.device)
        self.short = padded and short(self.longest, self.device)

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """Of neighbouring sentences of one length: how many there are, and their length."""
        times, counts = torch.unique_consecutive(self.lengths, return_counts=True)
        return list(zip(counts.tolist(), times.tolist(), strict=True))

    def views(self, packed: Tensor) -> list[Tensor]:
        """Views (rows, time, ...) of a tensor (total, ...), one for each of `groups`."""
        parts = torch.split(packed, [rows * time for rows, time in self.groups])
        return [part.view(*group, *packed.shape[1:]) for part, group in zip(parts, self.groups, strict=True)]

    @cached_property
    def spans(self) -> Tensor:
        """(2, rows) int32: where each sentence starts, and its length."""
        return torch.stack([self.starts, self.lengths_there]).int()

    @cached_property
    def bounds(self) -> Tensor:
        """(rows + 1,) int32: where each sentence starts, and where the last ends."""
        ends = torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])
        return send(ends.int(), self.device)

    @cached_property
    def bias(self) -> Tensor:
        """(rows, 1, 1, time) float32, to be added to attention's scores: 0 on real word pieces, -inf on padding."""
        return torch.zeros_like(self.mask, dtype=torch.float32).masked_fill(~self.mask, float("-inf"))[:, None, None]

    @cached_property
    def mask(self) -> Tensor:
        """(rows, time) bool: True on real word pieces."""
        return torch.arange(self.longest, device=self.device) < self.lengths_there[:, None]

    def pad(self, packed: Tensor) -> Tensor:
        """(total, ...) to (rows, time, ...), zero on padding."""
        flat = packed.new_zeros(self.rows * self.longest, *packed.shape[1:])
        return flat.index_copy(0, self.slots, packed).view(self.rows, self.longest, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """(rows, time, ...) to (total, ...): the inverse of `pad`."""
        return padded.flatten(0, 1).index_select(0, self.slots)


def usable(qkv: Tensor, dropout: float) -> bool:
    """Flash attention's terms: CUDA from compute capability 8.0, half precision, no dropout, a width that it takes.

    Args:
        qkv: (total, 3, heads, dim).
    """
    if not qkv.is_cuda or dropout or qkv.dtype not in (torch.bfloat16, torch.float16) or _flash_attention() is None:
        return False
    width = qkv.shape[-1]
    return width % 8 == 0 and width <= 256 and torch.cuda.get_device_capability(qkv.device) >= (8, 0)


def attend_packed(qkv: Tensor, layout: Layout) -> Tensor:
    """(total, 3, heads, dim) to (total, heads, dim); only where it is `usable`."""
    kernel = _flash_attention()
    assert kernel is not None
    bounds, longest = layout.bounds, layout.longest
    mixed: Tensor = kernel(*qkv.unbind(1), bounds, bounds, longest, longest)
    return mixed


@cache
def _flash_attention() -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before torch 2.10
        return None
    return varlen_attn


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
    """The backward pass of 128 word pieces takes more shared memory than a block has on cards below an A100."""
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
        found = torch.ops.benchkit.short_attention(qkv, starts, lengths, longest, dropout, seed)
    elif torch.is_grad_enabled() and qkv.requires_grad:
        found = _Attend.apply(qkv, starts, lengths, longest, dropout, seed)  # type: ignore[no-untyped-call]
    else:
        found = attend(qkv, starts, lengths, longest, dropout, seed)
    return found


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


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    qkv, starts, lengths, ctx.longest, ctx.dropout, seed = inputs
    ctx.save_for_backward(qkv, starts, lengths, seed)


def _gradients(backward: Callable[..., Tensor]) -> Callable[..., Any]:
    """Of what was kept, by `attend_backward` or by its operator."""

    def run(ctx: Any, *gradients: Any) -> Any:
        qkv, starts, lengths, seed = ctx.saved_tensors
        found = backward(qkv, gradients[0], starts, lengths, ctx.longest, ctx.dropout, seed)
        return found, None, None, None, None, None

    return run


class _Attend(torch.autograd.Function):
    """As `attend`, with gradients. Not the operator below, whose first call loads torch's compiler."""

    forward = staticmethod(attend)
    setup_context = staticmethod(_keep)
    backward = staticmethod(_gradients(attend_backward))


# The same as operators of torch, which `torch.compile` takes as a whole.
_NAMESPACE = "benchkit"
_attend = torch.library.custom_op(f"{_NAMESPACE}::short_attention", attend, mutates_args=())
_attend.register_fake(lambda qkv, *_: qkv.new_empty(qkv.shape[0], *qkv.shape[2:]))
_attend_backward = torch.library.custom_op(f"{_NAMESPACE}::short_attention_backward", attend_backward, mutates_args=())
_attend_backward.register_fake(lambda qkv, *_: torch.empty_like(qkv))
_attend.register_autograd(_gradients(_attend_backward), setup_context=_keep)


def _launch(
    kernel: Any, tensors: tuple[Tensor, ...], qkv: Tensor, starts: Tensor, lengths: Tensor, longest: int,
    dropout: float, seed: Tensor | None,
) -> None:  # fmt: skip
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
