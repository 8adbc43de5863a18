"""Throughput as a picture: a panel a mode, a row of points a head, with the range of another run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchkit.report.plot import COLOURS
from benchkit.speed.request import MIXED
from benchkit.speed.row import Result, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
