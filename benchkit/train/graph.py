"""A step as a program: run as it is the first time, captured as a CUDA graph the second, replayed ever after.

The first run is a step like any other, so nothing is spent on warming up: it makes the optimiser's state, and shows
whether the step ever waits for the device, which a graph cannot.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        refused: told why this step cannot be captured, where it cannot; it then runs as it is.
    """

    step: Callable[[Tensor], Tensor]
    width: int
    device: torch.device
    pool: Any
    warmups: int
    refuse: Callable[[str], None]
    runs: int = 0
    refused: bool = False
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
            if found:
                self._refuse(f"it waits for the device at {found[0]}")
            return result
        try:
            self._capture()
        except (torch.OutOfMemoryError, UserError):
            raise
        except Exception as error:  # noqa: BLE001 - a stranger's head may do anything; nothing of it has run yet
            self._refuse(f"{type(error).__name__}: {' '.join(str(error).split()):.200}")
            return self.step(self._row)
        return self._replay()

    def _refuse(self, why: str) -> None:
        self.refused = True
        self.refuse(why)

    def _replay(self) -> Tensor:
        self.graph.replay()
        assert self.results is not None
        return self.results

    def _capture(self) -> None:
        """Raises: what the step raises, with the capture ended; a UserError where CUDA itself cannot end it."""
        graph = torch.cuda.CUDAGraph()
        with _no_collection():
            graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            try:
                results = self.step(self._row)
            except Exception as error:
                _end(graph, error)
                raise
            except BaseException:  # Ctrl-C: it matters more than a capture that cannot be ended
                with suppress(UserError):
                    _end(graph, None)
                raise
            _end(graph, None)
        self.graph, self.results = graph, results


def _end(graph: Any, error: Exception | None) -> None:
    """End a capture: a stream that stays in one is of no use to anybody after."""
    try:
        graph.capture_end()
    except RuntimeError as failed:
        why = " ".join(str(error or failed).split())
        raise UserError(f"a step breaks its CUDA graph ({why:.200}); run again with --no-cuda-graph") from failed


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
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        # After an error too: what is still to be computed writes into memory that others are about to get.
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
