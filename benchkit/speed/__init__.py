"""How fast heads are on an encoder, measured so that two runs agree: what is measured, and its tables and files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from scipy.special import stdtrit

from benchkit.analysis.plots import COLOURS
from benchkit.core.settings import plain
from benchkit.experiment.environment import environment
from benchkit.inspect import columns, paragraph
from benchkit.inspect.heads import Setup
from benchkit.speed.setup import BenchmarkPoint, Work
from benchkit.store.files import write_atomic


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
    """An estimate, and where that of another run will be."""

    value: float
    low: float
    high: float


def repeatable(values: Sequence[float], family: int = 1) -> Interval:
    """The geometric mean of a positive quantity, one value for each of two or more repetitions, with the range of
    another run's.

    It is a prediction interval, not one for the mean: t times the spread times sqrt(2 / n), so that a second run of as
    many repetitions falls inside with 95 % (Hahn & Meeker 1991, section 4.7), its own chance included.

    Args:
        family: so many intervals are shown beside each other, and are to hold together (Bonferroni).
    """
    logs, count = [math.log(value) for value in values], len(values)
    middle = mean(logs)
    quantile = float(stdtrit(count - 1, 1 - (1 - LEVEL) / 2 / family))
    reach = min(quantile * stdev(logs) * math.sqrt(2 / count), 100.0)  # more could not be said as a number
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
class Memory:
    """Peaks in bytes while something ran; None where the device or the system does not tell.

    Attributes:
        process: resident memory of the whole process, of what else it holds too.
        since_start: `process` is the peak since the process began: the system does not reset it.
    """

    allocated: int | None
    reserved: int | None
    process: int
    since_start: bool


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

    def rate(self, what: str) -> float | None:
        """How many `examples`, `sentences` or `tokens` a second; None after an error."""
        return getattr(self.work, what) / self.latency.step.value if self.work and self.latency else None


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
    notes: tuple[str, ...] = ()


_PERCENTILES = ("p50", "p90", "p95", "p99")
_HEADER = ("sent/s", "pieces/s", "ms", "± %", *_PERCENTILES, "peak", "in head", "MB")


def render(result: Result, tasks: Sequence[str]) -> str:
    """A table a point, then what belongs to all of them."""
    parts = [_table(list(rows)) for _, rows in groupby(result.rows, key=lambda row: row.point)]
    return "\n\n".join([*parts, "\n".join(paragraph(line) for line in (*_legend(result, tasks), *result.notes))])


def _table(rows: Sequence[Row]) -> str:
    point, first = rows[0].point, next((row.name for row in rows if row.latency), "")
    parts = any(row.head_share is not None for row in rows)
    shown = [title for title in _HEADER if parts or title != "in head"]
    last = f"time / {first}'s" if len(rows) > 1 and first else ""
    body = []
    for row in rows:
        cells = _cells(row)
        compared = "1" if row.name == first else ""
        if row.ratio:
            compared = f"{row.ratio.value:.3g} ({row.ratio.low:.3g}–{row.ratio.high:.3g})"
        body.append((row.name, *(cells.get(title, "–") for title in shown), row.error or compared))
    header = ("features" if point.mode == "encode" else "head", *shown, last)
    return f"{point}\n\n{columns(header, body, right=shown)}"


def _cells(row: Row) -> dict[str, str]:
    """By column; without those of which nothing is known."""
    if not (row.latency and row.work and row.memory):
        return {}
    step, peak = row.latency.step, row.memory.allocated or row.memory.process
    half = (step.high - step.low) / 2 / step.value
    shares = {"peak": row.peak_share, "in head": row.head_share}
    return {
        "sent/s": f"{row.rate('sentences'):,.0f}",
        "pieces/s": f"{row.rate('tokens'):,.0f}",
        "ms": three(1000 * step.value),
        "± %": ">100" if half > 1 else _percent(half),
        **{name: three(1000 * getattr(row.latency, name)) for name in _PERCENTILES},
        **{name: f"{_percent(share)} %" for name, share in shares.items() if share is not None},
        "MB": f"{peak / 1e6:,.0f}",
    }


def _percent(share: float) -> str:
    return f"{100 * share:#.2g}".rstrip(".")


def three(value: float) -> str:
    """At least three digits, no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _legend(result: Result, tasks: Sequence[str]) -> Iterator[str]:
    memories = [row.memory for row in result.rows if row.memory]
    if not memories:
        return
    several = f"a batch of each of {', '.join(tasks)}" if len(tasks) > 1 else f"a batch of {tasks[0]}"
    yield (
        f"A step is {several}. ms is its mean; ± is where another run's mean will be, with 95 %, and so are the "
        "ratios' ranges, all of them together. peak: FLOPs of real word pieces against "
        f"{', '.join(f'{rate / 1e9:,.0f} GFLOP/s ({name})' for name, rate in result.peaks.items())} of a large matrix "
        "product here. in head: its share of a step."
    )
    if memories[0].allocated is not None:
        yield "MB: peak allocated on the GPU; reserved and the process are in the JSON file."
    elif memories[0].since_start:
        yield "MB: peak of the process since it began."
    else:
        yield "MB: peak of the process, all heads loaded, while this one ran."


def draw(result: Result, title: str) -> bytes | None:
    """A PNG with a bar a row, or None where matplotlib is not installed or nothing was timed."""
    timed = [(row, row.work, row.latency.step) for row in result.rows if row.work and row.latency]
    if not timed or find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.0 + 0.3 * len(timed)), layout="constrained")
    axes, heads = figure.subplots(), list(dict.fromkeys(row.name for row, _, _ in timed))
    for row, work, step in timed:
        value, low, high = (work.sentences / seconds for seconds in (step.value, step.high, step.low))
        colour = COLOURS[heads.index(row.name) % len(COLOURS)]
        bars = axes.barh(
            [f"{row.name}: {row.point}"], [value], xerr=[[value - low], [high - value]], color=colour, alpha=0.7
        )
        axes.bar_label(bars, [f"{value:,.0f}"], fontsize=7, label_type="center")
    axes.set(xscale="log", xlabel="sentences a second, with the range of another run (95 %)", title=title)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def write(result: Result, setup: Setup, limits: Limits, folder: Path) -> list[Path]:
    """Write everything, and say where.

    Raises:
        UserError: the folder cannot be written to.
    """
    found = environment(setup.plan.execution)
    precisions = sorted({row.point.precision for row in result.rows})
    files: dict[str, bytes] = {}
    for precision in precisions:
        rows = [row for row in result.rows if row.point.precision == precision]
        files[f"{_stem(found, precision)}.csv"] = as_csv(rows).encode()
    stem = _stem(found, "-".join(precisions))
    files[f"{stem}.json"] = json.dumps(as_json(result, setup, limits, found), indent=1, allow_nan=False).encode()
    threads = setup.plan.execution.threads
    on = f"{_device(found)}, {threads} thread{'s' * (threads != 1)}" if setup.device.type == "cpu" else _device(found)
    picture = draw(result, title=f"{setup.encoder.name} on {on}")
    files |= {f"{stem}.png": picture} if picture else {}
    for name, content in files.items():
        write_atomic(folder / name, content)
    return [folder / name for name in files]


def _stem(found: dict[str, Any], precision: str) -> str:
    device = re.sub(r"[^a-z0-9]+", "-", _device(found).lower()).strip("-")
    return f"speed-{device}-{precision}-torch{version('torch')}"


def _device(found: dict[str, Any]) -> str:
    if found["device"] == "cuda":
        return torch.cuda.get_device_name()
    return found["processor"] or platform.machine()


def as_csv(rows: Sequence[Row]) -> str:
    """A line a head, batch size and length; rates are examples a second, times milliseconds a step."""
    heads = list(dict.fromkeys(row.name for row in rows))
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: heads.index(row.name)):
        groups.setdefault((row.name, row.point.length, row.point.batch), []).append(row)
    lines = [_line(*where, here) for where, here in groups.items()]
    names = dict.fromkeys(name for line in lines for name in line if name != "error")
    file = io.StringIO()
    writer = csv.DictWriter(file, [*names, "error"], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _line(name: str, length: str, batch: int, rows: Sequence[Row]) -> dict[str, Any]:
    line: dict[str, Any] = {"head": name}
    for row in rows:
        mode, seconds = row.point.mode, row.latency.step.value if row.latency else None
        line[f"{mode}_samples_per_sec"] = _rounded(row.rate("examples"))
        line[f"{mode}_step_time"] = _rounded(seconds and 1000 * seconds)
        line[f"{mode}_batch_size"] = batch
        line["seq_len"] = length
    counted = [(row.point.mode == "head", row.work) for row in rows if row.work]
    if counted:  # of the head alone only where nothing else is timed
        work = min(counted, key=lambda each: each[0])[1]
        line |= {"param_count": round(work.parameters / 1e6, 3), "gmacs": _rounded(work.macs / 1e9)}
    line["error"] = "; ".join(f"{row.point.mode}: {row.error}" for row in rows if row.error)
    return line


def _rounded(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.5g}")


def as_json(result: Result, setup: Setup, limits: Limits, found: dict[str, Any]) -> dict[str, Any]:
    """Seconds, bytes, joules; what is not known is null."""
    plan, rates = setup.plan, ("examples", "sentences", "tokens")
    return {
        "environment": found,
        "encoder": {"name": setup.encoder.name, "parameters": setup.encoder.parameters},
        "tasks": [shape.name for shape in setup.shapes],
        "configs": {name: plain(config) for name, config in plan.configs.items()},
        "pooling": plan.protocol.pooling,
        "limits": dataclasses.asdict(limits),
        "peak_flops": dict(result.peaks),
        "cores_of_others": result.others,
        "notes": list(result.notes),
        "rows": [
            dataclasses.asdict(row) | {f"{what}_per_second": row.rate(what) for what in rates} for row in result.rows
        ],
    }
