"""Optimiser steps of fixed shapes, captured once as CUDA graphs and replayed.

All batches of an epoch are packed into static buffers beforehand and sent to the device in one transfer. A step then
begins with one copy on the device; the Python, the kernel launches and the transfers of a plain step are gone. The
losses equal those of `PlainSteps` but for rounding and for the numbers that dropout draws.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.training.batches import Batch
from benchkit.training.evaluation import PhaseContext, Reader
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import LiveReader, Source, source_of
from benchkit.training.static_batches import StaticBatch, StepShape, build_buckets, results_by_task
from benchkit.training.steps import LOOK, PlainSteps, Steps, Trained, descend


@dataclass
class GraphedStep:
    """A step that is run as it is first, then captured as a CUDA graph, then replayed.

    It maps a row of inputs (width,) int32 to a row of results; inputs and results keep fixed addresses. The first run
    is a step like any other: it makes the optimiser's state, and shows whether the step waits for the device, which a
    graph cannot do.

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


def graph_pool(device: torch.device) -> Any:
    """Memory shared by the graphs of one training; None on a CPU."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Run on a side stream, since nothing can be captured on the default one; the two are synchronised at both ends."""
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
    """Collects the places where the host waited for the device; the list is filled at the end."""
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


def make_steps(context: PhaseContext, modules: nn.ModuleDict, reader: Reader, optimizer: AdamW) -> Steps:
    """How the steps of a phase are taken: fixed where that is asked for and the features allow it."""
    if context.compiled and isinstance(reader, LiveReader) and reader.grad:
        reader.encoder.model.compile_layers()
    source = source_of(reader, autocast=context.autocast) if context.fixed else None
    if context.fixed and source is None:
        context.log("features are not in the device's memory as a whole: steps are taken one by one, no CUDA graphs")
    if source is not None and context.settings.r_drop:
        context.log("R-Drop computes each batch twice: steps are taken one by one, no CUDA graphs")
        source = None
    if source is None:
        return PlainSteps(context, modules, reader, optimizer)
    return FixedSteps(context, modules, source, optimizer)


@dataclass
class FixedSteps:
    """Steps of a few fixed shapes; with CUDA graphs each shape is captured once and replayed from then on."""

    context: PhaseContext
    modules: nn.ModuleDict
    source: Source
    optimizer: AdamW

    def __post_init__(self) -> None:
        self.graphed: dict[StepShape, GraphedStep] = {}
        self.refused: set[str] = set()
        self.pool = graph_pool(self.context.device) if self.context.graphs else None

    def close(self) -> None:
        self.graphed.clear()

    def epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        with side_stream(self.context.device):
            if self.source.shadow:  # the master weights may have changed since the last step
                self.source.shadow.refresh()
            return self._epoch(rounds, rates)

    def _epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        shapes, buckets = build_buckets(rounds, rates, self.context, self.source)
        for shape, bucket in buckets.items():
            if shape not in self.graphed:
                self.graphed[shape] = self._graphed(bucket.static)
        inputs = {shape: iter(bucket.inputs.unbind()) for shape, bucket in buckets.items()}
        results = {shape: iter(bucket.results.unbind()) for shape, bucket in buckets.items()}
        done = 0
        for done, shape in enumerate(shapes, start=1):
            result = next(results[shape])
            result.copy_(self.graphed[shape].run(next(inputs[shape])))
            if self.optimizer.average:  # outside of the graph: its decay changes
                self.optimizer.average.update()
            if (done - 1) % LOOK == 0 and not bool(torch.isfinite(result[: len(shape.tasks)]).all()):
                break
        self.optimizer.lr = rates[done - 1]
        return results_by_task(buckets, done, self.context)

    def _graphed(self, static: StaticBatch) -> GraphedStep:
        """A step of one shape: from its row of inputs to a row of `Bucket.results`.

        The step holds no reference to this object: a reference cycle would keep its graphs until garbage collection.
        """
        shape, context, source = static.shape, self.context, self.source
        optimizer, head = self.optimizer, self.modules["head"]
        batches = list(zip(shape.batches, shape.segments, strict=True))

        def step(row: Tensor) -> Tensor:
            inputs = static.unpack(row)
            with torch.autocast(context.device.type, torch.bfloat16, enabled=context.autocast):
                features = source.features(inputs.fields, shape.size, batches)
            results = descend(
                context, head, optimizer, shape.tasks, features, inputs.labels, inputs.rate, source.shadow
            )
            losses = [loss.flatten() for _, _, loss in results]
            return torch.cat([*losses, *(outputs.flatten() for outputs, _, _ in results)])

        # The first run compiles the step; only the second one can be captured.
        warmups = 1 + context.compiled
        return GraphedStep(step, static.width, context.device, self.pool, warmups, _once(context.log, self.refused))


def _once(log: Callable[[str], None], refused: set[str]) -> Callable[[str], None]:
    """Says why a step cannot be captured; each reason once, not for every shape."""

    def refuse(why: str) -> None:
        if why not in refused:
            log(f"no CUDA graph of a step: {why}; it is launched kernel by kernel")
        refused.add(why)

    return refuse
