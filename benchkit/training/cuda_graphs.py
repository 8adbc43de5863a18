"""Optimiser steps of fixed shapes, captured once as CUDA graphs and replayed."""

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
from benchkit.training.early import Movement, roomy
from benchkit.training.evaluation import Reader, Work
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import LiveReader, LiveSource, Source, source_of
from benchkit.training.static_batches import Deck, Shape, deal, gathered
from benchkit.training.steps import LOOK, PlainSteps, Steps, Trained, descend
from benchkit.turns import pause, settle


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


# Steps between turns: a replay takes the host a tenth of what a step does that is launched kernel by kernel.
_TURN = 32


def make_steps(work: Work, modules: nn.ModuleDict, reader: Reader, optimizer: AdamW) -> Steps:
    """How the steps of a phase are taken: fixed where that is asked for and the features allow it."""
    if work.compiled and isinstance(reader, LiveReader) and reader.grad:
        reader.encoder.model.compile_layers()
    source = source_of(reader, autocast=work.autocast) if work.fixed else None
    if work.fixed and source is None:
        work.log("features are not in the device's memory as a whole: steps are taken one by one, no CUDA graphs")
    if source is None:
        return PlainSteps(work, modules, reader, optimizer)
    return FixedSteps(work, modules, source, optimizer)


@dataclass
class FixedSteps:
    """Steps by shape; with CUDA graphs each shape is a program that is captured once and replayed ever after."""

    work: Work
    modules: nn.ModuleDict
    source: Source
    optimizer: AdamW

    def __post_init__(self) -> None:
        work = self.work
        self.programs: dict[Shape, Program] = {}
        self.refused: set[str] = set()
        self.pool = pool(work.device) if work.graphs else None
        live = self.source if isinstance(self.source, LiveSource) else None
        self.movement = Movement(self.optimizer, live.halves if live else None)
        # Who clips must see all gradients first.
        if live and work.early and not work.settings.clip and roomy(self.optimizer.parameters, work.device):
            self.movement.layer_by_layer(live.reader.encoder.model, work.device)

    def close(self) -> None:
        self.programs.clear()
        self.movement.close()

    def epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        with aside(self.work.device), self.movement.epoch():
            return self._epoch(rounds, rates)

    def _epoch(self, rounds: Sequence[Sequence[Batch]], rates: Sequence[float]) -> dict[str, Trained]:
        shapes, hands = deal(rounds, rates, self.work, self.source)
        for shape, hand in hands.items():
            if shape not in self.programs:
                self.programs[shape] = self._program(hand.deck)
        inputs = {shape: iter(hand.inputs.unbind()) for shape, hand in hands.items()}
        into = {shape: iter(hand.results.unbind()) for shape, hand in hands.items()}
        done = 0
        for done, shape in enumerate(shapes, start=1):
            if done % _TURN == 0:
                pause()
            result = next(into[shape])
            result.copy_(self.programs[shape].run(next(inputs[shape])))
            if (done - 1) % LOOK == 0:
                settle()
                if not bool(torch.isfinite(result[: len(shape.tasks)]).all()):
                    break
        self.optimizer.lr = rates[done - 1]
        return gathered(hands, done, self.work)

    def _program(self, deck: Deck) -> Program:
        """A step of one shape: from its row of inputs to a row of `Hand.results`.

        It knows nothing of this object, or both would be kept until Python looks for cycles, and graphs with them.
        """
        shape, work, source, movement, head = deck.shape, self.work, self.source, self.movement, self.modules["head"]
        batches = list(zip(shape.batches, shape.segments, strict=True))

        def step(row: Tensor) -> Tensor:
            inputs = deck.open(row)
            with torch.autocast(work.device.type, torch.bfloat16, enabled=work.autocast):
                features = source.features(inputs.fields, shape.size, batches)
            movement.rate = inputs.rate
            results = descend(work, head, movement, shape.tasks, features, inputs.labels, inputs.rate, movement.settle)
            losses = [loss.flatten() for _, _, loss in results]
            return torch.cat([*losses, *(outputs.flatten() for outputs, _, _ in results)])

        # A compiled step is made in its first run, and is itself only from the second on.
        return Program(step, deck.width, work.device, self.pool, 1 + work.compiled, _once(work.log, self.refused))


def _once(log: Callable[[str], None], refused: set[str]) -> Callable[[str], None]:
    """Says why a step cannot be captured; each reason once, not for every shape."""

    def refuse(why: str) -> None:
        if why not in refused:
            log(f"no CUDA graph of a step: {why}; it is launched kernel by kernel")
        refused.add(why)

    return refuse
