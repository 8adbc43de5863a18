"""The machine: how fast it multiplies, what else runs on it, how much memory and energy something takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchkit.experiment.environment import PeakMemory


def multiply_rate(device: torch.device, precision: str, seconds: float) -> float:
    """FLOP/s of a large matrix product here and now, the best of several: what shares of peak refer to.

    The matrices grow for as long as a product is quick: where bf16 is emulated, large ones would take minutes.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    size, largest, best, begun = 128, 8192 if device.type == "cuda" else 1024, 0.0, time.perf_counter()
    while True:
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        taken = min(_product_seconds(a, b) for _ in range(3))
        best = max(best, 2 * size**3 / taken)
        if size < largest and 8 * 3 * taken < seconds:
            size *= 2
        elif time.perf_counter() - begun > seconds:
            return best


def _product_seconds(a: Tensor, b: Tensor) -> float:
    synchronize(a.device)
    start = time.perf_counter()
    a @ b
    synchronize(a.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Memory:
    """Peaks in bytes while something ran; None where the device or the system does not tell.

    Attributes:
        process: resident memory of the whole process, of what else it holds too.
        since_start: `process` is the peak since the process began: the system does not reset it.
    """

    allocated: int | None
    reserved: int | None
    process: int
    since_start: bool


def watch_memory(device: torch.device, work: Callable[[], Any]) -> Memory:
    resettable = os.access("/proc/self/clear_refs", os.W_OK) and "VmHWM:" in Path("/proc/self/status").read_text()
    process = PeakMemory(torch.device("cpu"))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronize(device)
    if device.type != "cuda":
        return Memory(None, None, process.read(), not resettable)
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return Memory(allocated, reserved, process.read(), not resettable)


class Others:
    """How many cores' worth of time went to anything but this process, from when it was made."""

    def __init__(self) -> None:
        self.busy, self.own, self.begun = _busy_seconds(), _own_seconds(), time.monotonic()

    def cores(self) -> float | None:
        """None where the system does not tell."""
        busy, spent = _busy_seconds(), time.monotonic() - self.begun
        if self.busy is None or busy is None or spent <= 0:
            return None
        return max(0.0, (busy - self.busy - (_own_seconds() - self.own)) / spent)


def _busy_seconds() -> float | None:
    """Of all cores since the system was started: everything but idle and waiting for disks."""
    try:
        fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except (OSError, ValueError, IndexError):
        return None
    user, nice, system, _, _, interrupt, soft, steal = (*fields, *[0] * 8)[:8]
    return float(user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


class Driver:
    """What NVML tells of a GPU; of a CPU, and where `nvidia-ml-py` is not installed, it tells nothing.

    Attributes:
        reason: why there is nothing; "" if there is.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason, self._nvml, self._handle = "not a GPU", None, None
        if device.type == "cuda":
            self._open(device)

    def _open(self, device: torch.device) -> None:
        try:
            import pynvml
        except ImportError:
            self.reason = "nvidia-ml-py is not installed"
            return
        try:
            pynvml.nvmlInit()
            # By its identity: CUDA_VISIBLE_DEVICES renumbers torch's devices, not the driver's.
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(name)
            self._nvml, self.reason = pynvml, ""
        except (pynvml.NVMLError, AttributeError) as error:
            self.reason = f"NVML: {error}"

    def joules(self) -> float | None:
        """Since the driver was loaded, of the whole GPU."""
        if self._nvml is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError as error:
            self.reason = f"NVML: {error}"
            return None

    def other_processes(self) -> int:
        """How many others compute on the GPU now."""
        if self._nvml is None:
            return 0
        try:
            running = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return 0
        return sum(process.pid != os.getpid() for process in running)
