"""Timing heads in turns, and what is looked at beside the time: work, memory, energy, other processes."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch

from benchkit.experiment.environment import PeakMemory
from benchkit.inspect.heads import Setup
from benchkit.speed import Latency, Limits, Memory, Result, Row, ratio, repeatable
from benchkit.speed.setup import BenchmarkPoint, PreparedBenchmark, Run, count_work, ignore


class Clock:
    """Moments are taken without waiting for the device, and turned into seconds afterwards.

    On a GPU they are events in its stream: what lies between two of them is its work, and its waiting for the host.
    Elsewhere everything has happened once a call returns, and they are those of a monotonic clock.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def moment(self) -> Any:
        if self.stream is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self.stream)
        return event

    def between(self, moments: Sequence[Any]) -> list[float]:
        """Seconds from each moment to the next; waits until all of them have come."""
        pairs = itertools.pairwise(moments)
        if self.stream is None:
            return [after - before for before, after in pairs]
        moments[-1].synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairs]


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


def take_turns(makers: Mapping[str, Callable[[], Run]], limits: Limits, clock: Clock) -> dict[str, Timed]:
    """Time what each maker makes, forth and back: A B C C B A.

    Everything is made anew in each repetition: where in memory it lies matters too. One that raises is given up, with
    its error, and the cycle in which it did is left out; the others go on.
    """
    timed = {name: Timed() for name in makers}
    block = min(_BLOCK, limits.seconds / limits.repeats / 4)
    for repeat in range(limits.repeats):
        runs: dict[str, Run] = {}
        sizes: dict[str, int] = {}  # steps that fill a block
        for name in [name for name in makers if not timed[name].error]:
            with _giving_up(timed[name]):
                runs[name] = makers[name]()
        for name, run in runs.items():
            with _giving_up(timed[name]):
                seconds = _steps(run, 2 if repeat else limits.warmup, clock)
                sizes[name] = max(1, round(block / max(1e-9, median(seconds[-3:]))))
            timed[name].steps.append([])
            timed[name].cycles.append([])
        share = (repeat + 1) / limits.repeats
        while runs := {name: run for name, run in runs.items() if not timed[name].error}:
            if all(_is_enough(timed[name], limits, share) for name in runs):
                break
            cycle: dict[str, list[float]] = {name: [] for name in runs}
            for name in [*runs, *reversed(runs)]:
                with _giving_up(timed[name]):
                    cycle[name] += _steps(runs[name], sizes[name], clock)
                if timed[name].error:
                    break
            else:
                for name, seconds in cycle.items():
                    timed[name].steps[-1] += seconds
                    timed[name].cycles[-1].append(mean(seconds))
    return timed


def _is_enough(seen: Timed, limits: Limits, share: float) -> bool:
    steps = seen.all_steps
    enough = len(steps) >= share * limits.iterations and sum(steps) >= share * limits.seconds
    return enough and bool(seen.steps[-1])


def _steps(run: Run, count: int, clock: Clock) -> list[float]:
    moments = [clock.moment()]
    for _ in range(count):
        run(ignore)
        moments.append(clock.moment())
    return clock.between(moments)


@contextmanager
def _giving_up(seen: Timed) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        seen.error = describe_error(error)


def describe_error(error: BaseException) -> str:
    """One line; a lack of memory is called so, whoever ran out of it."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory: {text}".removesuffix(": ")
    return f"{kind}: {text}"


_BUSY = 0.1  # cores that others may use before it is worth a note
_LOOK = 5  # steps that are run for memory and for the head's share
_ENERGY = 2.0  # seconds for which energy is watched: drivers count in steps of up to a tenth


def measure(
    setup: Setup, points: Sequence[BenchmarkPoint], limits: Limits, say: Callable[[str], None] = lambda line: None
) -> Result:
    """Time every head at every point. A head that fails has a row with its error; the others go on."""
    others, driver = Others(), Driver(setup.device)
    precisions = dict.fromkeys(point.precision for point in points)
    peaks: dict[str, float] = {each: multiply_rate(setup.device, each, min(0.5, limits.seconds)) for each in precisions}
    # How many ratios the tables will show.
    kinds, heads = len({setup.assembly(head).features.reads for head in setup.plan.heads}), len(setup.plan.heads)
    family = max(1, sum((kinds if point.mode == "encode" else heads) - 1 for point in points))
    rows: list[Row] = []
    for number, point in enumerate(points, start=1):
        began = time.monotonic()
        rows += _measure_point(setup, point, limits, peaks[point.precision], driver, family)
        say(f"{number} of {len(points)}: {point}: {time.monotonic() - began:.0f} s")
    cores = others.cores()
    notes = []
    if processes := driver.other_processes():
        notes.append(f"{processes} other processes computed on the GPU: its times are not its own")
    if cores is not None and cores > _BUSY:
        notes.append(f"other processes used {cores:.1f} cores meanwhile: times are longer than on an idle machine")
    if unknown := sorted({name for row in rows if row.work for name in row.work.unknown}):
        notes.append(f"not in the FLOPs, since no count is known: {', '.join(unknown)}")
    if setup.device.type == "cuda" and driver.reason and all(row.joules is None for row in rows):
        notes.append(f"no energy: {driver.reason}")
    return Result(tuple(rows), peaks, cores, tuple(notes))


def _measure_point(
    setup: Setup, point: BenchmarkPoint, limits: Limits, peak: float, driver: Driver, family: int
) -> list[Row]:
    try:
        prepared = PreparedBenchmark.of(setup, point)
    except Exception as error:  # noqa: BLE001 - the encoder alone may be too large
        return [Row(head, point, error=describe_error(error)) for head in setup.plan.heads]
    clock, names = Clock(setup.device), prepared.names()
    timed = take_turns({name: partial(prepared.make, name) for name in names}, limits, clock)
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
    p50, p90, p95, p99 = map(float, np.percentile(steps, [50, 90, 95, 99]))
    step = replace(repeatable([mean(repeat) for repeat in timed.steps]), value=mean(steps))
    return Latency(step, p50, p90, p95, p99, stdev(steps), len(steps))


def _look(prepared: PreparedBenchmark, row: Row, peak: float, driver: Driver, clock: Clock) -> Row:
    """What is not time: counts, memory, the head's share, energy; in steps of its own, which are not timed."""
    assert row.latency is not None
    device, parts = prepared.setup.device, list[dict[str, float]]()
    try:
        work, run = count_work(prepared, row.name), prepared.make(row.name)
        memory = watch_memory(device, lambda: parts.extend(_parts(run, clock) for _ in range(_LOOK)))
        joules = _joules(run, driver, device)
    except Exception as error:  # noqa: BLE001 - a stranger's head may raise anything
        return replace(row, latency=None, error=describe_error(error))
    share = sum(each.get("head", 0.0) for each in parts) / sum(sum(each.values()) for each in parts)
    head_share, peak_share = share if "head" in parts[0] else None, work.flops / row.latency.step.value / peak
    return replace(row, work=work, memory=memory, peak_share=peak_share, head_share=head_share, joules=joules)


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


def _joules(run: Run, driver: Driver, device: torch.device) -> float | None:
    before, steps, begun = driver.joules(), 0, time.monotonic()
    if before is None:
        return None
    while time.monotonic() - begun < _ENERGY:
        run(ignore)
        synchronize(device)
        steps += 1
    after = driver.joules()
    return None if after is None else (after - before) / steps


def multiply_rate(device: torch.device, precision: str, seconds: float) -> float:
    """FLOP/s of a large matrix product here and now, the best of several: what shares of peak refer to.

    The matrices grow for as long as a product is quick: where bf16 is emulated, large ones would take minutes.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    size, largest, best, begun = 128, 8192 if device.type == "cuda" else 1024, 0.0, time.perf_counter()
    while True:
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        taken = min(_seconds(partial(torch.matmul, a, b), device) for _ in range(3))
        best = max(best, 2 * size**3 / taken)
        if size < largest and 8 * 3 * taken < seconds:
            size *= 2
        elif time.perf_counter() - begun > seconds:
            return best


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def watch_memory(device: torch.device, work: Callable[[], Any]) -> Memory:
    resettable = os.access("/proc/self/clear_refs", os.W_OK) and "VmHWM:" in Path("/proc/self/status").read_text()
    process = PeakMemory(torch.device("cpu"))
    if device.type != "cuda":
        work()
        return Memory(None, None, process.read(), not resettable)
    allocated = PeakMemory(device)
    work()
    synchronize(device)
    return Memory(allocated.read(), torch.cuda.max_memory_reserved(device), process.read(), not resettable)


class Others:
    """How many cores' worth of time went to anything but this process, from when it was made."""

    def __init__(self) -> None:
        self.busy, self.own, self.begun = _busy_seconds(), sum(os.times()[:2]), time.monotonic()

    def cores(self) -> float | None:
        """None where the system does not tell."""
        busy, spent = _busy_seconds(), time.monotonic() - self.begun
        if self.busy is None or busy is None or spent <= 0:
            return None
        return max(0.0, (busy - self.busy - (sum(os.times()[:2]) - self.own)) / spent)


def _busy_seconds() -> float | None:
    """Of all cores since the system was started: everything but idle and waiting for disks."""
    try:
        times = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    except (OSError, ValueError, IndexError):
        return None
    return float(sum(times) - sum(times[3:5])) / os.sysconf("SC_CLK_TCK")


class Driver:
    """What NVML tells of a GPU; of a CPU, and where `nvidia-ml-py` is not installed, it tells nothing.

    Attributes:
        reason: why there is nothing; "" if there is.
    """

    def __init__(self, device: torch.device) -> None:
        self.reason, self._handle = "" if device.type == "cuda" else "not a GPU", None
        if self.reason:
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            # By its identity: CUDA_VISIBLE_DEVICES renumbers torch's devices, not the driver's.
            name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._nvml, self._handle = pynvml, pynvml.nvmlDeviceGetHandleByUUID(name)
        except ImportError:
            self.reason = "nvidia-ml-py is not installed"
        except Exception as error:  # noqa: BLE001 - NVML's own, or a torch that knows no such identity
            self.reason = f"NVML: {error}"

    def joules(self) -> float | None:
        """Since the driver was loaded, of the whole GPU."""
        energy = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if energy is None else energy / 1000

    def other_processes(self) -> int:
        """How many others compute on the GPU now."""
        running = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return sum(process.pid != os.getpid() for process in running)

    def _ask(self, question: str) -> Any:
        if self._handle is None:
            return None
        try:
            return getattr(self._nvml, question)(self._handle)
        except self._nvml.NVMLError as error:
            self.reason = f"NVML: {error}"
            return None
