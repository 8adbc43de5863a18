"""Training curves as a picture: a column a task, metric above loss, phases on one axis."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchkit.analysis.report import curves_frame
from benchkit.analysis.results import collect
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchkit.core.record import Record
    from benchkit.core.task import TaskSpec
    from benchkit.experiment.companions import Control


# Okabe & Ito (2008), for all kinds of colour vision; the yellow is left out, it is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# The eighth head has the first one's colour, and squares.
MARKS = "osD"
_LINES: Mapping[str, Literal["--", "-"]] = {"train": "--", "dev": "-"}
_GREY = "#777777"


def plot_curves(
    records: Sequence[Record],
    path: Path,
    *,
    controls: Sequence[Control] = (),
    tasks: Mapping[str, TaskSpec],
    phases: Iterable[str] = (),
) -> bool:
    """Write a PNG of the training curves: the mean over seeds, in a band from the lowest seed to the highest.

    Train is dashed (running means over an epoch, dropout on), dev solid, the control on dev dotted. Cells
    that failed or diverged are left out, and the legend counts the seeds that are in. Returns False, and
    writes nothing, where no cell has a curve.

    Raises:
        ImportError: matplotlib is not installed.
        UserError: the file cannot be written.
    """
    figure = draw_curves(records, controls=controls, tasks=tasks, phases=phases)
    if figure is None:
        return False
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
    return True


def draw_curves(
    records: Sequence[Record],
    *,
    controls: Sequence[Control] = (),
    tasks: Mapping[str, TaskSpec],
    phases: Iterable[str] = (),
) -> Figure | None:
    """The figure of `plot_curves`, or None where there is nothing to draw."""
    from matplotlib.figure import Figure

    results = collect(records, controls, tasks, phases)
    spoilt = {(fault.head, fault.seed) for fault in results.faults if not fault.counts}
    frame = curves_frame([record for record in records if (record.head, record.seed) not in spoilt])
    frame = frame[frame["task"].isin(list(tasks)) & frame["phase"].isin(results.phases)]
    if frame.empty:
        return None
    starts = _starts(frame, results.phases)
    frame = frame.assign(x=frame["epoch"] + frame["phase"].map(starts))
    names = [name for name in tasks if name in set(frame["task"])]
    figure = Figure(figsize=(max(3.1 * len(names), 6.2), 5.2), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False, sharex=True)
    heads = [head for head in results.heads if head in set(frame["head"])]
    styles = {head: style(index) for index, head in enumerate(heads)}
    for column, task in enumerate(names):
        rows = frame[frame["task"] == task]
        for axes, quantity in zip(grid[:, column], ("value", "loss"), strict=True):
            _panel(axes, rows, quantity, styles)
            _phases(axes, starts, label=quantity == "value")
            axes.set_xlim(0.5, frame["x"].max() + 0.5)
        _constant(grid[:, column], [each for each in controls if (each.task, each.split) == (task, "dev")])
        grid[0, column].set_title(task, fontweight="bold", pad=18 if len(starts) > 1 else 6)
        grid[0, column].set_ylabel(results.metrics[task])
        grid[1, column].set_ylabel("loss")
        grid[1, column].set_xlabel("epoch")
    _legend(figure, frame, records, styles, controls)
    return figure


def style(index: int) -> tuple[str, str]:
    """Colour and mark of the head of that number, counted from 0."""
    return COLOURS[index % len(COLOURS)], MARKS[index // len(COLOURS) % len(MARKS)]


def _starts(frame: pd.DataFrame, phases: Sequence[str]) -> dict[str, int]:
    """Epochs before each phase."""
    starts, total = {}, 0
    for phase in phases:
        epochs = frame.loc[frame["phase"] == phase, "epoch"]
        if len(epochs):
            starts[phase] = total
            total += int(epochs.max())
    return starts


def _panel(axes: Axes, rows: pd.DataFrame, quantity: str, styles: Mapping[str, tuple[str, str]]) -> None:
    from matplotlib.ticker import MaxNLocator

    finite = rows.replace([np.inf, -np.inf], np.nan)
    for head, (colour, mark) in styles.items():
        for split, line in _LINES.items():
            group = finite[(finite["head"] == head) & (finite["split"] == split)]
            for _, phase in group.groupby("phase", sort=False):
                over = phase.groupby("x")[quantity].agg(["mean", "min", "max"])
                marker = mark if len(over) == 1 or mark != MARKS[0] else ""  # one epoch is a point, not a line
                inside = colour if split == "dev" else "white"
                (drawn,) = axes.plot(over.index, over["mean"], line, color=colour, marker=marker, markersize=4)
                drawn.set_markerfacecolor(inside)
                axes.fill_between(over.index, over["min"], over["max"], color=colour, alpha=0.15, linewidth=0)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _phases(axes: Axes, starts: Mapping[str, int], *, label: bool) -> None:
    """A thin line between phases, and above the upper panel their names to its left and right."""
    names = list(starts)
    for before, after in itertools.pairwise(names):
        x = starts[after] + 0.5
        axes.axvline(x, color=_GREY, linewidth=0.8)
        if label:
            for text, side in ((f"{before} ", "right"), (f" {after}", "left")):
                place = axes.get_xaxis_transform()
                axes.text(x, 1.02, text, transform=place, color=_GREY, fontsize=8, ha=side, va="bottom")


def _constant(column: Iterable[Axes], controls: Sequence[Control]) -> None:
    for axes, quantity in zip(column, ("value", "loss"), strict=True):
        for control in controls:
            axes.axhline(getattr(control, quantity), color=_GREY, linestyle="dotted", linewidth=1.2)


def _legend(
    figure: Figure,
    frame: pd.DataFrame,
    records: Sequence[Record],
    styles: Mapping[str, tuple[str, str]],
    controls: Sequence[Control],
) -> None:
    from matplotlib.lines import Line2D

    lines = []
    for head, (colour, mark) in styles.items():
        drawn, run = (
            frame.loc[frame["head"] == head, "seed"].nunique(),
            sum(each.head == head for each in records),
        )
        name = head if drawn == run else f"{head} ({drawn} of {run} seeds)"
        marker = mark if mark != MARKS[0] else ""
        lines.append(Line2D([], [], color=colour, linewidth=2, marker=marker, markersize=4, label=name))
    lines += [Line2D([], [], color="black", linestyle=style, label=split) for split, style in _LINES.items()]
    if controls:
        lines.append(Line2D([], [], color=_GREY, linestyle="dotted", label="control, dev"))
    # Inches an entry takes: its line and gaps, and its letters.
    widths = [0.65 + 0.07 * len(str(line.get_label())) for line in lines]
    room = figure.get_figwidth()
    columns = len(lines) if sum(widths) <= room else max(1, int(room / max(widths)))
    figure.legend(handles=lines, loc="outside lower center", ncols=columns, frameon=False)
