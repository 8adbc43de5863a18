"""A step as a program: run as it is the first time, captured as a CUDA graph the second, replayed ever after.

The first run is a step like any other, so nothing is spent on warming up: it makes the optimiser's state, and shows
whether the step ever waits for the device, which a graph cannot.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchkit.errors import UserError


@dataclass
class Program:
    """From a row of inputs (width,) int32 to a row of results; both lie where they lay the last time.

    Attributes:
        pool: memory shared by the graphs of a training, which never run at the same time; None on a CPU, where nothing
            is captured.
        warmups: runs before the one that is captured.
        refused: why this step cannot be captured, or "".
    """

    step: Callable[[Tensor], Tensor]
    width: int
    device: torch.device
    pool: Any
    warmups: int
    log: Callable[[str], None]
    runs: int = 0
    refused: str = ""
    graph: Any = None
    results: Tensor | None = None
    _row: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._row = torch.zeros(self.width, dtype=torch.int32, device=self.device)

    def run(self, row: Tensor) -> Tensor:
        """Take the step. The result is to be copied before the next one."""
        self._row.copy_(row)
        self.runs += 1
        if self.graph is not None:
            return self._replay()
        if self.pool is None or self.refused or self.runs < self.warmups:
            return self.step(self._row)
        if self.runs == self.warmups:
            with waits() as found:
                result = self.step(self._row)
            self.refused = found[0] if found else ""
            if found:
                self.log(f"no CUDA graphs for steps that wait for the device: {self.refused}")
            return result
        self._capture()
        return self._replay()

    def _replay(self) -> Tensor:
        self.graph.replay()
        assert self.results is not None
        return self.results

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        with _no_collection():
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                self.results = self.step(self._row)
            except BaseException as error:
                # The device is in the middle of a capture that has failed: nothing more can be trained here.
                raise UserError(
                    f"a step cannot be captured as a CUDA graph ({' '.join(str(error).split()):.200}); "
                    "run again with --no-cuda-graph"
                ) from error
            graph.capture_end()
        self.graph = graph


def pool(device: torch.device) -> Any:
    """Memory for the graphs of one training; None on a CPU."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


@contextmanager
def aside(device: torch.device) -> Iterator[None]:
    """On a stream that is not the default one, from which nothing can be captured; in step with it before and after."""
    if device.type != "cuda":
        yield
        return
    around = torch.cuda.current_stream(device)
    own = _side(device) if around == torch.cuda.default_stream(device) else around
    own.wait_stream(around)
    with torch.cuda.stream(own):
        yield
    around.wait_stream(own)


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def waits() -> Iterator[list[str]]:
    """Where the host waited for the device meanwhile, as torch says it; known only afterwards."""
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += [f"{each.filename}:{each.lineno}" for each in caught if "a synchronizing CUDA" in str(each.message)]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without garbage collection: what it frees may be the device's, and a capture allows no such calls."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
