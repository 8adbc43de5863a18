"""What was measured, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from benchkit.describe.columns import columns, paragraph
from benchkit.speed.compare import Interval
from benchkit.speed.row import Result, Row

_HEADER = ("sent/s", "pieces/s", "ms", "± %", "p50", "p90", "p95", "p99", "peak", "in head", "MB")


def render(result: Result, tasks: Sequence[str]) -> str:
    """A table a point, then what belongs to all of them."""
    parts = [_table(list(rows)) for _, rows in groupby(result.rows, key=lambda row: row.point)]
    return "\n\n".join([*parts, "\n".join(paragraph(line) for line in (*_legend(result, tasks), *result.notes))])


def _table(rows: Sequence[Row]) -> str:
    point, first = rows[0].point, next((row.name for row in rows if row.latency), "")
    name = "features" if point.mode == "encode" else "head"
    if all(row.head_share is None for row in rows):
        shown = tuple(title for title in _HEADER if title != "in head")
    else:
        shown = _HEADER
    header = (name, *shown, f"time / {first}'s" if len(rows) > 1 and first else "")
    body = [_cells(row, shown, first) for row in rows]
    return f"{point}\n\n{columns(header, body, right=shown)}"


def _cells(row: Row, shown: Sequence[str], first: str) -> tuple[str, ...]:
    if row.error:
        return (row.name, *("–" for _ in shown), row.error)
    return (row.name, *(_cell(row, title) for title in shown), _ratio(row, first))


def _cell(row: Row, title: str) -> str:
    assert row.latency is not None
    latency = row.latency
    if title in ("ms", "p50", "p90", "p95", "p99"):
        return three(1000 * (latency.step.value if title == "ms" else getattr(latency, title)))
    if title == "± %":
        return _percent(latency.step)
    if title == "MB":
        peak = row.memory and (row.memory.allocated or row.memory.process)
        return f"{peak / 1e6:,.0f}" if peak else "–"
    share = {"peak": row.peak_share, "in head": row.head_share}
    if title in share:
        value = share[title]
        return "–" if value is None else f"{100 * value:#.2g}".rstrip(".") + " %"
    rate = {"sent/s": row.sentences_per_second, "pieces/s": row.tokens_per_second}[title]
    return "–" if rate is None else f"{rate:,.0f}"


def _ratio(row: Row, first: str) -> str:
    if row.ratio is None:
        return "1" if row.name == first else ""
    return f"{row.ratio.value:.3g} ({row.ratio.low:.3g}–{row.ratio.high:.3g})"


def _percent(interval: Interval) -> str:
    """Half the width of an interval, in percent of its value."""
    half = (interval.high - interval.low) / 2 / interval.value
    if half > 1:
        return ">100"
    return "–" if math.isnan(half) else f"{100 * half:#.2g}".rstrip(".")


def _legend(result: Result, tasks: Sequence[str]) -> Iterable[str]:
    timed = [row for row in result.rows if row.latency]
    if not timed:
        return
    several = f"a batch of each of {', '.join(tasks)}" if len(tasks) > 1 else f"a batch of {tasks[0]}"
    yield (
        f"A step is {several}. ms is its mean; ± is where another run's mean will be, with 95 %, and so are the "
        "ratios' ranges, all of them together. peak: FLOPs of real word pieces against "
        f"{', '.join(f'{rate / 1e9:,.0f} GFLOP/s ({name})' for name, rate in result.peaks.items())} of a large matrix "
        "product here. in head: its share of a step."
    )
    process = any(row.memory and row.memory.allocated is None for row in timed)
    if process:
        since = any(row.memory and row.memory.since_start for row in timed)
        yield "MB: peak of the process" + (" since it began." if since else ", all heads loaded, while this one ran.")
    else:
        yield "MB: peak allocated on the GPU; reserved and the process are in the JSON file."


def three(value: float) -> str:
    """At least three digits, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"
