"""Speed as tables, plots and CSV files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchkit.analysis.plots import COLOURS
from benchkit.core.errors import UserError
from benchkit.core.settings import plain
from benchkit.experiment.environment import environment
from benchkit.inspect import columns, paragraph
from benchkit.inspect.heads import Setup
from benchkit.speed.measure import Interval, Limits, Result, Row
from benchkit.speed.setup import MIXED
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


_MODES = {
    "infer": "infer: word pieces to outputs",
    "train": "train: a step of encoder and head",
    "head": "head: a step on stored features",
    "encode": "encode: word pieces to features",
}


def draw(result: Result, title: str) -> bytes | None:
    """A PNG, or None where matplotlib is not installed or nothing was timed."""
    timed = [row for row in result.rows if row.latency]
    if not timed or find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    modes = list(dict.fromkeys(row.point.mode for row in timed))
    series = list(dict.fromkeys(_series(row, timed) for row in timed))
    heights = [len({(_series(row, timed), _place(row)) for row in timed if row.point.mode == mode}) for mode in modes]
    figure = Figure(figsize=(8, 1.0 + sum(0.75 + 0.27 * height for height in heights)), layout="constrained")
    panels = figure.subplots(len(modes), 1, squeeze=False, height_ratios=[height + 1 for height in heights])[:, 0]
    for axes, mode in zip(panels, modes, strict=True):
        _panel(axes, [row for row in timed if row.point.mode == mode], series, timed)
        axes.set_title(_MODES[mode], fontsize=10, fontweight="bold", loc="left")
    panels[-1].set_xlabel("sentences a second, with the range of another run (95 %)")
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _panel(axes: Axes, rows: Sequence[Row], series: Sequence[str], timed: Sequence[Row]) -> None:
    labels = []
    for height, row in enumerate(sorted(rows, key=lambda row: _place(row))):
        assert row.latency is not None
        assert row.work is not None
        colour = COLOURS[series.index(_series(row, timed)) % len(COLOURS)]
        value, step = row.work.sentences / row.latency.step.value, row.latency.step
        axes.plot([value], [height], "o", color=colour, markersize=5)
        axes.plot(
            [row.work.sentences / step.high, row.work.sentences / step.low], [height] * 2, color=colour, linewidth=2
        )
        axes.annotate(
            f"{value:,.0f}", (value, height), xytext=(0, 5), textcoords="offset points", fontsize=7, ha="center"
        )
        labels.append(f"{_series(row, timed)}{_where(row, rows)}")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.8)
    fastest = max(row.work.sentences / row.latency.step.low for row in rows if row.latency and row.work)
    slowest = min(row.work.sentences / row.latency.step.high for row in rows if row.latency and row.work)
    if fastest > 8 * slowest:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.08 * fastest)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)


def _place(row: Row) -> tuple[float, int, str]:
    """Points in order: shorter sentences first, then smaller batches."""
    length = float("inf") if row.point.length == MIXED else float(row.point.length)
    return (length, row.point.batch, row.point.precision)


def _series(row: Row, timed: Sequence[Row]) -> str:
    several = len({each.point.precision for each in timed if each.point.mode != "head"}) > 1
    return f"{row.name} {row.point.precision}" if several else row.name


def _where(row: Row, rows: Sequence[Row]) -> str:
    if len({_place(each)[:2] for each in rows}) == 1:
        return ""
    return f" · {row.point.batch} × {row.point.length}"


_TIMED = ("infer", "train", "head")


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
    files[f"{stem}.json"] = json.dumps(as_json(result, setup, limits, found), indent=1).encode()
    threads = setup.plan.execution.threads
    on = f"{_device(found)}, {threads} thread{'s' * (threads != 1)}" if setup.device.type == "cpu" else _device(found)
    picture = draw(result, title=f"{setup.encoder.name} on {on}")
    if picture is not None:
        files[f"{stem}.png"] = picture
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(folder / name, content)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
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
    file = io.StringIO()
    lines = list(_lines(rows))
    names = list(dict.fromkeys(name for line in lines for name in line if name != "error"))
    writer = csv.DictWriter(file, [*names, "error"], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _lines(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    names, batches, lengths = (
        list(dict.fromkeys(each))
        for each in zip(*((row.name, row.point.batch, row.point.length) for row in rows), strict=True)
    )
    for name, length, batch in product(names, lengths, batches):
        here = [row for row in rows if (row.name, row.point.batch, row.point.length) == (name, batch, length)]
        if here:
            yield _line(name, batch, length, here)


def _line(name: str, batch: int, length: str, rows: Sequence[Row]) -> dict[str, Any]:
    line: dict[str, Any] = {"head": name}
    for row in rows:
        mode, latency = row.point.mode, row.latency
        line[f"{mode}_samples_per_sec"] = _rounded(row.examples_per_second)
        line[f"{mode}_step_time"] = _rounded(1000 * latency.step.value if latency else None)
        line[f"{mode}_batch_size"] = batch
        line["seq_len"] = length
    whole = [row for row in rows if row.work and row.point.mode != "head"] or [row for row in rows if row.work]
    if whole and whole[0].work:
        line["param_count"] = round(whole[0].work.parameters / 1e6, 3)
        line["gmacs"] = _rounded(whole[0].work.macs / 1e9)
    line["error"] = "; ".join(f"{row.point.mode}: {row.error}" for row in rows if row.error)
    return line


def _rounded(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.5g}")


def as_json(result: Result, setup: Setup, limits: Limits, found: dict[str, Any]) -> dict[str, Any]:
    """Seconds, bytes, joules; what is not known is null."""
    plan = setup.plan
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
        "rows": [_row(row) for row in result.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    rates = {
        "examples_per_second": row.examples_per_second,
        "sentences_per_second": row.sentences_per_second,
        "tokens_per_second": row.tokens_per_second,
    }
    values: dict[str, Any] = _finite({**dataclasses.asdict(row), **rates})
    return values


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
