"""What explains a number but was not asked for: versions, device, threads, git state."""

from __future__ import annotations

import dataclasses
import functools
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import benchkit
from benchkit.core.errors import UserError
from benchkit.experiment.cell import Execution
from benchkit.store.files import total_memory


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads; as many as before, after."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(execution: Execution) -> dict[str, Any]:
    on_gpu = execution.device.startswith("cuda")
    return {
        "benchkit": benchkit.__version__,
        "git": _git(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(execution.device) if on_gpu else _processor(),
        "packages": {name: version(name) for name in ("torch", "numpy", "tokenizers", "safetensors")},
        **dataclasses.asdict(execution),
    }


_BYTES_TRAINED = 16  # of a parameter: its value, its gradient and AdamW's two means, in fp32


def check_memory(parameters: int, what: str) -> None:
    """Refuse what has more parameters than this machine could hold in training, before it is allocated.

    Raises:
        UserError: it has; `what` names it.
    """
    needed, there = parameters * _BYTES_TRAINED, total_memory()
    if there and needed > there:
        raise UserError(
            f"{what} has {parameters:,} parameters, which take {needed / 2**30:,.0f} GiB to train: this machine has "
            f"{there / 2**30:,.0f} GiB of memory"
        )


class PeakMemory:
    """The most memory that is held from now on: allocated on a GPU, resident in the process on a CPU.

    Linux can forget a process's earlier peak; elsewhere the peak is the whole process's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@functools.cache
def _git() -> str:
    """Commit of the benchkit that runs, `-dirty` when changed; "" for an installed release."""
    root = Path(benchkit.__file__).parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
