"""A whole measurement: every point, every head in turns, then what is looked at beside the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchkit.inspect.heads import Setup
from benchkit.speed.machine import Driver, Others, multiply_rate, synchronize, watch_memory
from benchkit.speed.request import BenchmarkPoint, Latency, Limits, Result, Row, ratio, repeatable
from benchkit.speed.setup import PreparedBenchmark, count_work
from benchkit.speed.timing import Clock, Run, Timed, clock_of, describe_error, take_turns

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
