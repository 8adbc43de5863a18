"""Timing heads in turns, what may be said of the times, and what is looked at beside them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import mean, median, stdev
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from benchkit.inspect.heads import Setup
from benchkit.speed.machine import Driver, Memory, Others, multiply_rate, synchronize, watch_memory
from benchkit.speed.setup import BenchmarkPoint, PreparedBenchmark, Run, Work, count_work


@dataclass(frozen=True)
class Limits:
    """How long a head is timed at a point: at least so many iterations, and at least so long.

    Attributes:
        repeats: how often everything is built anew; the interval comes from their differences.
    """

    warmup: int = 10
    iterations: int = 10
    seconds: float = 10.0
    repeats: int = 8


LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate, and where that of another run will be; both ends are NaN where nothing was repeated."""

    value: float
    low: float
    high: float


def repeatable(values: Sequence[float], family: int = 1) -> Interval:
    """The geometric mean of a positive quantity, one value a repetition, with the range of another run's.

    It is a prediction interval, not one for the mean: t times the spread times sqrt(2 / n), so that a second run of as
    many repetitions falls inside with 95 % (Hahn & Meeker 1991, section 4.7), its own chance included.

    Args:
        family: so many intervals are shown beside each other, and are to hold together (Bonferroni).
    """
    from scipy.special import stdtrit

    logs, count = [math.log(value) for value in values], len(values)
    middle = mean(logs)
    if count < 2:
        return Interval(math.exp(middle), math.nan, math.nan)
    quantile = float(stdtrit(count - 1, 1 - (1 - LEVEL) / 2 / family))
    reach = quantile * stdev(logs) * math.sqrt(2 / count)
    return Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach))


def ratio(base: Sequence[Sequence[float]], other: Sequence[Sequence[float]], family: int = 1) -> Interval:
    """How many times as long `other` takes as `base`.

    Both are mean times of a step by repetition and cycle. In one cycle A B … B A each head ran at the same time on
    average, so what drifts steadily is in both and leaves the ratio; the median over a repetition's cycles
    leaves out what came between once.
    """
    ratios = [
        median(late / early for early, late in zip(ours, theirs, strict=True))
        for ours, theirs in zip(base, other, strict=True)
    ]
    return repeatable(ratios, family)


@dataclass(frozen=True)
class Latency:
    """Seconds of a step, over all that were timed; `step` is the mean with the range of another run's."""

    step: Interval
    p50: float
    p90: float
    p95: float
    p99: float
    stdev: float
    steps: int


@dataclass(frozen=True)
class Row:
    """A head (or, for `encode`, a kind of features) at a point. After an error nothing but `work` is known.

    Attributes:
        peak_share: FLOP/s over those of a large matrix product on the same device in the same precision.
        head_share: of a step's time, in the head and its loss, forth and back; None where there is nothing else.
        ratio: its time over that of the first in the table; None for the first.
        joules: a step; None where the driver does not tell.
    """

    name: str
    point: BenchmarkPoint
    work: Work | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    peak_share: float | None = None
    head_share: float | None = None
    ratio: Interval | None = None
    joules: float | None = None
    error: str = ""

    @property
    def examples_per_second(self) -> float | None:
        return self.work.examples / self.latency.step.value if self.work and self.latency else None

    @property
    def sentences_per_second(self) -> float | None:
        return self.work.sentences / self.latency.step.value if self.work and self.latency else None

    @property
    def tokens_per_second(self) -> float | None:
        return self.work.tokens / self.latency.step.value if self.work and self.latency else None


@dataclass(frozen=True)
class Result:
    """A whole run.

    Attributes:
        peaks: FLOP/s of a large matrix product, by precision.
        notes: what a reader should know, such as that the machine was busy, a line each.
    """

    rows: tuple[Row, ...]
    peaks: Mapping[str, float]
    others: float | None
    notes: tuple[str, ...] = field(default=())


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


Say = Callable[[str], None]

_BUSY = 0.1  # cores that others may use before it is worth a note
_LOOK = 5  # steps that are run for memory and for the head's share
_ENERGY = 2.0  # seconds for which energy is watched: drivers count in steps of up to a tenth


def measure(setup: Setup, points: Sequence[BenchmarkPoint], limits: Limits, say: Say = lambda line: None) -> Result:
    """Time every head at every point. A head that fails has a row with its error; the others go on."""
    others, driver = Others(), Driver(setup.device)
    peaks: dict[str, float] = {
        each: multiply_rate(setup.device, each, min(0.5, limits.seconds))
        for each in dict.fromkeys(point.precision for point in points)
    }
    rows: list[Row] = []
    family = _ratios(setup, points)
    for number, point in enumerate(points, start=1):
        began = time.monotonic()
        rows += _point(setup, point, limits, peaks[point.precision], driver, family)
        say(f"{number} of {len(points)}: {point}: {time.monotonic() - began:.0f} s")
    cores = others.cores()
    return Result(tuple(rows), peaks, cores, tuple(_notes(setup, rows, cores, driver)))


def estimate(setup: Setup, points: Sequence[BenchmarkPoint], limits: Limits) -> float:
    """Seconds that `measure` will take at least, from one step of the first head at every point."""
    total, clock = 0.0, clock_of(setup.device)
    for point in points:
        try:
            prepared = PreparedBenchmark.of(setup, point)
            names = prepared.names()
            run = prepared.make(names[0])
            step = min(sum(_parts(run, clock).values()) for _ in range(2))
        except Exception:  # noqa: BLE001 - what fails here fails again, and has a row then
            continue
        steps = limits.warmup + 2 * limits.repeats + _LOOK
        total += len(names) * (max(limits.seconds, step * max(limits.iterations, 2 * limits.repeats)) + step * steps)
    return total


def _ratios(setup: Setup, points: Sequence[BenchmarkPoint]) -> int:
    """How many ratios the tables will show."""
    kinds = len({setup.assembly(head).features.reads for head in setup.plan.heads})
    heads = len(setup.plan.heads)
    return max(1, sum((kinds if point.mode == "encode" else heads) - 1 for point in points))


def _point(setup: Setup, point: BenchmarkPoint, limits: Limits, peak: float, driver: Driver, family: int) -> list[Row]:
    try:
        prepared = PreparedBenchmark.of(setup, point)
        names = prepared.names()
    except Exception as error:  # noqa: BLE001 - the encoder alone may be too large
        return [Row(head, point, error=describe_error(error)) for head in setup.plan.heads]
    clock = clock_of(setup.device)
    timed = take_turns({name: lambda name=name: prepared.make(name) for name in names}, limits, clock)  # type: ignore[misc]
    first = next((name for name in names if not timed[name].error), "")
    rows = []
    for name in names:
        row = Row(name, point, error=timed[name].error)
        if not row.error:
            row = _look(prepared, replace(row, latency=_latency(timed[name])), peak, driver, clock)
        if not row.error and name != first:
            row = replace(row, ratio=ratio(timed[first].cycles, timed[name].cycles, family))
        rows.append(row)
    return rows


def _latency(timed: Timed) -> Latency:
    steps = timed.all_steps
    p50, p90, p95, p99 = (float(value) for value in np.percentile(steps, [50, 90, 95, 99]))
    spread = repeatable([mean(repeat) for repeat in timed.steps])
    step = replace(spread, value=mean(steps))
    return Latency(step, p50, p90, p95, p99, stdev(steps) if len(steps) > 1 else 0.0, len(steps))


def _look(prepared: PreparedBenchmark, row: Row, peak: float, driver: Driver, clock: Clock) -> Row:
    """What is not time: counts, memory, the head's share, energy; in steps of its own, which are not timed."""
    assert row.latency is not None
    try:
        work, run = count_work(prepared, row.name), prepared.make(row.name)
        parts: list[dict[str, float]] = []
        memory = watch_memory(prepared.setup.device, lambda: parts.extend(_parts(run, clock) for _ in range(_LOOK)))
        joules = _joules(run, driver, prepared)
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        return replace(row, latency=None, error=describe_error(error))
    share = sum(each.get("head", 0.0) for each in parts) / sum(sum(each.values()) for each in parts)
    return replace(
        row,
        work=work,
        memory=memory,
        peak_share=work.flops / row.latency.step.value / peak,
        head_share=share if "head" in parts[0] else None,
        joules=joules,
    )


def _parts(run: Run, clock: Clock) -> dict[str, float]:
    """Seconds of one step, by part; a step that names no parts is one, ""."""
    names, moments = [""], [clock.moment()]

    def mark(name: str) -> None:
        names.append(name)
        moments.append(clock.moment())

    run(mark)
    moments.append(clock.moment())
    found: dict[str, float] = {}
    for name, seconds in zip(names, clock.between(moments), strict=True):
        found[name] = found.get(name, 0.0) + seconds
    return found


def _joules(run: Run, driver: Driver, prepared: PreparedBenchmark) -> float | None:
    before, steps, begun = driver.joules(), 0, time.monotonic()
    if before is None:
        return None
    while time.monotonic() - begun < _ENERGY:
        run(lambda name: None)
        synchronize(prepared.setup.device)
        steps += 1
    after = driver.joules()
    return None if after is None else (after - before) / steps


def _notes(setup: Setup, rows: Sequence[Row], cores: float | None, driver: Driver) -> Any:
    processes = driver.other_processes()
    if processes:
        yield f"{processes} other processes computed on the GPU: its times are not its own"
    if cores is not None and cores > _BUSY:
        yield f"other processes used {cores:.1f} cores meanwhile: times are longer than on an idle machine"
    unknown = sorted({name for row in rows if row.work for name in row.work.unknown})
    if unknown:
        yield f"not in the FLOPs, since no count is known: {', '.join(unknown)}"
    if setup.device.type == "cuda" and driver.reason:
        yield f"no energy: {driver.reason}"
