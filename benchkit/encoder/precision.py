"""Which number format to compute in."""

from __future__ import annotations

from typing import Literal

import torch

from benchkit.errors import UserError

Precision = Literal["fp32", "bf16"]


def resolve_precision(requested: str, device: torch.device | str) -> Precision:
    """`auto` is bf16 where the hardware multiplies bf16 natively, and fp32 elsewhere.

    Native is: AMX or AVX512-BF16 on a CPU, compute capability 8.0 on CUDA. Asking for bf16 where it is emulated
    is allowed: slower than fp32, but it gives the numbers.

    Raises:
        UserError: not one of auto, fp32, bf16.
    """
    if requested == "fp32":
        return "fp32"
    if requested == "bf16":
        return "bf16"
    if requested != "auto":
        raise UserError(f"precision is one of auto, fp32, bf16, not {requested!r}")
    device = torch.device(device)
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    # Private, and absent on some platforms and releases; there it is not known to be native.
    probes = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return any(probe() for probe in probes if probe is not None)
