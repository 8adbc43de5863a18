"""Time, as the device tells it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Moments are taken without waiting for the device, and turned into seconds afterwards."""

    def moment(self) -> Any: ...

    def between(self, moments: Sequence[Any]) -> list[float]:
        """Seconds from each moment to the next; waits until all of them have come."""
        ...


class HostClock:
    """A monotonic clock of the processor, on which everything has happened once a call returns."""

    def moment(self) -> float:
        return time.perf_counter()

    def between(self, moments: Sequence[float]) -> list[float]:
        return [after - before for before, after in itertools.pairwise(moments)]


class DeviceClock:
    """Events in a GPU's stream: what lies between two of them is its work, and its waiting for the host."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device)

    def moment(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return event

    def between(self, moments: Sequence[torch.cuda.Event]) -> list[float]:
        if moments:
            moments[-1].synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in itertools.pairwise(moments)]


def clock_of(device: torch.device) -> Clock:
    return DeviceClock(device) if device.type == "cuda" else HostClock()
