"""Timing: clocks, repeats, captured steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median
from typing import Any, Protocol, TypeVar

import torch

from benchkit.core.errors import UserError
from benchkit.speed.request import Limits
from benchkit.training.cuda_graphs import GraphedStep, graph_pool, side_stream


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


Mark = Callable[[str], None]
Run = Callable[[Mark], None]
"""One step; calls its argument with the name of each part as it begins."""

_T = TypeVar("_T")
_BLOCK = 0.1  # seconds of one head before the next has its turn


@dataclass
class Timed:
    """What was seen of one of them.

    Attributes:
        steps: seconds of every step, by repetition.
        cycles: mean seconds of a step in each cycle, by repetition.
        error: why it was given up; what was seen until then is not used.
    """

    steps: list[list[float]] = field(default_factory=list)
    cycles: list[list[float]] = field(default_factory=list)
    error: str = ""

    @property
    def all_steps(self) -> list[float]:
        return [second for repeat in self.steps for second in repeat]


def take_turns(
    makers: Mapping[str, Callable[[], Run]],
    limits: Limits,
    clock: Clock,
    on_repeat: Callable[[int], None] = lambda done: None,
) -> dict[str, Timed]:
    """Time what each maker makes. Everything is made anew in each repetition: where in memory it lies matters too.

    One that raises is given up, with its error; the others go on.
    """
    timed = {name: Timed() for name in makers}
    for repeat in range(limits.repeats):
        runs: dict[str, Run] = {}
        for name, make in makers.items():
            run = None if timed[name].error else _attempt(timed[name], make)
            if run is not None:
                runs[name] = run
        sizes = _warm_up(runs, timed, limits.warmup if repeat == 0 else 2, limits, clock)
        for name in runs:
            timed[name].steps.append([])
            timed[name].cycles.append([])
        share = (repeat + 1) / limits.repeats
        while any(not _is_enough(timed[name], limits, share) for name in runs):
            _cycle(runs, timed, sizes, clock)
        on_repeat(repeat + 1)
    return timed


def _is_enough(seen: Timed, limits: Limits, share: float) -> bool:
    if seen.error:
        return True
    steps = seen.all_steps
    return bool(seen.steps[-1]) and len(steps) >= share * limits.iterations and sum(steps) >= share * limits.seconds


def _warm_up(
    runs: dict[str, Run], timed: dict[str, Timed], iterations: int, limits: Limits, clock: Clock
) -> dict[str, int]:
    """Run each, and find how many steps fill a block; those that fail leave `runs`."""
    block = min(_BLOCK, limits.seconds / limits.repeats / 4)
    sizes = {}
    for name, run in list(runs.items()):
        seconds = _attempt(timed[name], partial(_steps, run, iterations, clock))
        if seconds is None:
            del runs[name]
        else:
            sizes[name] = max(1, round(block / max(1e-9, median(seconds[-3:]))))
    return sizes


def _cycle(runs: dict[str, Run], timed: dict[str, Timed], sizes: dict[str, int], clock: Clock) -> None:
    """Forth and back: A B C C B A. A cycle in which one fails is left out, and so is that one from then on."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for name in [*runs, *reversed(runs)]:
        block = _attempt(timed[name], partial(_steps, runs[name], sizes[name], clock))
        if block is None:
            del runs[name]
            return
        seconds[name] += block
    for name, each in seconds.items():
        timed[name].steps[-1] += each
        timed[name].cycles[-1].append(mean(each))


def _steps(run: Run, count: int, clock: Clock) -> list[float]:
    moments: list[Any] = [clock.moment()]
    for _ in range(count):
        run(_nothing)
        moments.append(clock.moment())
    return clock.between(moments)


def _nothing(name: str) -> None:
    pass


def _attempt(seen: Timed, work: Callable[[], _T]) -> _T | None:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        seen.error = describe_error(error)
        return None


def describe_error(error: BaseException) -> str:
    """One line; a lack of memory is called so, whoever ran out of it."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory: {text}".removesuffix(": ")
    return f"{kind}: {text}"


class Captured:
    """A `Run` without parts: what a graph is made of cannot be told apart while it is replayed.

    Raises:
        UserError: the step waits for the device somewhere, or does something else that no graph can hold.
    """

    def __init__(self, run: Run, device: torch.device, *, compiled: bool = False) -> None:
        def step(row: torch.Tensor) -> torch.Tensor:
            run(lambda name: None)
            return row

        self.refused: list[str] = []
        self.device, self.row = device, torch.zeros(1, dtype=torch.int32, device=device)
        # A compiled step is made in its first run, and is itself only from the second on.
        warmups = 1 + compiled
        self.program = GraphedStep(step, 1, device, graph_pool(device), warmups, self.refused.append)
        for _ in range(warmups + 1):
            self.run()

    def __call__(self, mark: Mark) -> None:
        self.run()

    def run(self) -> None:
        with side_stream(self.device):
            self.program.run(self.row)
        if self.refused:
            raise UserError(f"no CUDA graph can be made of it: {self.refused[0]}")
