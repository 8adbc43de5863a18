"""Plots: their data for the script of the HTML page, and files drawn by matplotlib."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from benchkit.analysis.statistics import spread
from benchkit.analysis.tables import MEAN, Results
from benchkit.core.errors import UserError
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchkit.analysis.comparisons import TaskPredictions
    from benchkit.analysis.results import Stored
    from benchkit.core.record import Record
    from benchkit.experiment.companions import Control


# Okabe & Ito (2008), for all kinds of colour vision; the yellow is left out, it is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# The eighth head has the first one's colour, and squares.
MARKS = "osD"
_LINES: Mapping[str, Literal["--", "-"]] = {"train": "--", "dev": "-"}
_GREY = "#777777"
_UNSAFE = r"[^\w.-]+"  # in a file's name

Styles = Mapping[str, tuple[str, str]]
"""Colour and mark, by head."""
POINTS = 2000
"""Examples in a scatter; of more, every so many-th of the sorted labels."""


class Curve(NamedTuple):
    """One head on one split of a task in one phase, epoch by epoch.

    Attributes:
        seeds: the number of seeds in it; failed and diverged ones are left out.
        value, loss: (3, epochs): mean over seeds, lowest and highest; NaN where no seed has a finite number.
    """

    phase: str
    task: str
    split: str
    head: str
    seeds: int
    epochs: list[int]
    value: np.ndarray
    loss: np.ndarray


def curves(results: Results, records: Iterable[Record]) -> list[Curve]:
    """In the order of the heads; train before dev; then phase by phase."""
    from benchkit.analysis.report import curves_frame

    spoilt = {(fault.head, fault.seed) for fault in results.faults if not fault.counts}
    frame = curves_frame([record for record in records if (record.head, record.seed) not in spoilt])
    groups = frame.replace([np.inf, -np.inf], np.nan).groupby(["head", "split", "phase", "task"], sort=False)
    found = []
    for key in itertools.product(results.heads, _LINES, results.phases, results.metrics):
        if key in groups.groups:
            head, split, phase, task = key
            rows = groups.get_group(key)
            tables = [rows.pivot(index="epoch", columns="seed", values=name) for name in ("value", "loss")]
            value, loss = (np.stack([each.mean(axis=1), each.min(axis=1), each.max(axis=1)]) for each in tables)
            found.append(Curve(phase, task, split, head, rows["seed"].nunique(), tables[0].index.tolist(), value, loss))
    return found


def page_data(stored: Stored, predictions: Mapping[str, TaskPredictions]) -> dict[str, Any]:
    """What the page's script draws, JSON-ready: curves, costs and calibration, with heads by their number."""
    results = stored.results
    number = {head: index for index, head in enumerate(results.heads)}
    return {
        "colours": len(COLOURS),
        "heads": results.heads,
        "phases": list(reversed(results.phases)),
        "tasks": [*results.metrics],
        "metrics": results.metrics,
        "curves": [
            {**each._asdict(), "head": number[each.head],
             "value": [*map(_list, each.value)], "loss": [*map(_list, each.loss)]}
            for each in curves(results, stored.records)
        ],
        "controls": [
            {"name": each.name, "task": each.task, "value": _short(each.value), "loss": _short(each.loss)}
            for each in stored.controls_with_loss
            if each.split == "dev"
        ],
        "costs": [
            _cost(results, phase, task, head)
            for phase in results.phases
            for task in (MEAN, *results.metrics)
            for head in results.heads
        ],
        "calibration": [_calibration(each, number) for each in predictions.values()],
    }  # fmt: skip


def _short(value: float) -> float | None:
    """Round to five significant digits, since more cannot be seen. None if it is not a finite number."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _list(values: Iterable[float]) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _cost(results: Results, phase: str, task: str, head: str) -> dict[str, Any]:
    split = results.judged(phase, task)
    seeds = results.seeds(head, phase, task, split).values()
    over, time = spread(seeds), results.seconds(head, phase)
    return {
        "phase": phase, "task": task, "head": results.heads.index(head), "split": split,
        "score": _list((over.mean, over.low, over.high)), "seeds": _list(seeds),
        "parameters": results.parameters.get(head),
        "seconds": _list((time.mean, time.mean - time.std, time.mean + time.std)),
    }  # fmt: skip


def _calibration(predictions: TaskPredictions, number: Mapping[str, int]) -> dict[str, Any]:
    task = predictions.task
    count = len(predictions.labels)
    # Of scores, rows of a scatter, spread evenly over the labels.
    first, step = count if task.classes else 0, max(1, math.ceil(count / POINTS))
    rows = np.argsort(predictions.labels, kind="stable")[first::step]
    return {
        "task": task.name, "split": predictions.split, "examples": count,
        "classes": len(task.classes), "range": [0, 1] if task.classes else [task.low, task.high],
        "labels": [_rounded(each) for each in predictions.labels[rows]],
        "heads": [
            {
                "head": number[head],
                "bins": [[_rounded(x / n), _rounded(y / n), _short(n / each.bins[:, 0].sum())]
                         for n, x, y in each.bins if n],
                "error": [_short(spread(each.errors).mean), _short(spread(each.errors).std)],
                "said": [_rounded(said) for said in each.said[rows]],
            }
            for head, each in predictions.heads.items()
        ],
    }  # fmt: skip


def _rounded(value: float) -> float:
    return round(float(value), 3)


def draw_curves(results: Results, records: Sequence[Record], controls: Sequence[Control] = ()) -> Figure | None:
    """Draw the training curves, one column per task: the mean over seeds in a band from the lowest to the highest.

    Train is dashed (running means over an epoch, dropout on), dev is solid, and the control on dev is dotted. Cells
    that failed or diverged are left out. The legend counts the seeds that are drawn. Returns None if no cell has a
    curve.

    Raises:
        ImportError: matplotlib is not installed.
    """
    found = curves(results, records)
    if not found:
        return None
    starts, last = dict[str, int](), 0
    for phase in results.phases:
        if epochs := [each.epochs[-1] for each in found if each.phase == phase]:
            starts[phase], last = last, last + max(epochs)
    names = [name for name in results.metrics if any(each.task == name for each in found)]
    heads = dict.fromkeys(each.head for each in found)
    styles = {head: style(index) for index, head in enumerate(heads)}
    figure = _figure(max(3.1 * len(names), 6.2), 5.2)
    grid = figure.subplots(2, len(names), squeeze=False, sharex=True)
    for column, task in enumerate(names):
        here = [each for each in found if each.task == task]
        level = next((each for each in controls if (each.task, each.split) == (task, "dev")), None)
        for axes, quantity in zip(grid[:, column], ("value", "loss"), strict=True):
            _curve_panel(axes, here, quantity, styles, starts)
            if level:
                axes.axhline(getattr(level, quantity), color=_GREY, linestyle="dotted", linewidth=1.2)
            axes.set_xlim(0.5, last + 0.5)
        grid[0, column].set_title(task, fontweight="bold", pad=18 if len(starts) > 1 else 6)
        grid[0, column].set(ylabel=results.metrics[task])
        grid[1, column].set(ylabel="loss", xlabel="epoch")
    _legend(figure, found, records, styles, bool(controls))
    return figure


def style(index: int) -> tuple[str, str]:
    """Colour and mark of the head with this index, counted from 0."""
    return COLOURS[index % len(COLOURS)], MARKS[index // len(COLOURS) % len(MARKS)]


def _curve_panel(axes: Axes, found: Sequence[Curve], quantity: str, styles: Styles, starts: Mapping[str, int]) -> None:
    from matplotlib.ticker import MaxNLocator

    for each in found:
        colour, mark = styles[each.head]
        x, (mean, low, high) = np.array(each.epochs) + starts[each.phase], getattr(each, quantity)
        marker = mark if len(x) == 1 or mark != MARKS[0] else ""  # one epoch is a point, not a line
        (drawn,) = axes.plot(x, mean, _LINES[each.split], color=colour, marker=marker, markersize=4)
        drawn.set_markerfacecolor(colour if each.split == "dev" else "white")
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    for before, after in itertools.pairwise(starts):
        edge = starts[after] + 0.5
        axes.axvline(edge, color=_GREY, linewidth=0.8)
        # Above the upper panel stand the names of the two phases.
        for text, side in ((f"{before} ", "right"), (f" {after}", "left")) if quantity == "value" else ():
            place = axes.get_xaxis_transform()
            axes.text(edge, 1.02, text, transform=place, color=_GREY, fontsize=8, ha=side, va="bottom")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _bare(axes, "y")


def _legend(figure: Figure, found: Sequence[Curve], records: Sequence[Record], styles: Styles, controls: bool) -> None:
    from matplotlib.lines import Line2D

    lines = []
    for head, (colour, mark) in styles.items():
        drawn = max(each.seeds for each in found if each.head == head)
        run = sum(each.head == head for each in records)
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


def draw_scores(results: Results, phase: str) -> Figure:
    """One panel per task and one for their mean. Each shows the mean, 95 % interval and seeds of every head."""
    tasks = [MEAN, *results.metrics]
    figure = _figure(max(6.4, 2.7 * len(tasks)), 1.1 + 0.28 * len(results.heads))
    grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(grid, tasks, strict=True):
        split = results.judged(phase, task)
        for index, head in enumerate(results.heads):
            seeds = list(results.seeds(head, phase, task, split).values())
            over, (colour, mark) = spread(seeds), style(index)
            axes.plot(seeds, [index] * len(seeds), "|", color=colour, markersize=7, alpha=0.6)
            if math.isfinite(over.low):
                axes.plot([over.low, over.high], [index, index], color=colour, linewidth=1.4)
            if over.n:
                axes.plot([over.mean], [index], mark, color=colour, markersize=5, markeredgecolor="white")
        control = results.control(task, split)
        if control is not None and axes.get_xlim()[0] <= control <= axes.get_xlim()[1]:
            axes.axvline(control, color=_GREY, linestyle="dotted", linewidth=1)
        axes.set_title("mean of tasks" if task == MEAN else f"{task}, {results.metrics[task]}", fontsize=9)
        axes.set_xlabel(split, fontsize=8)
        _bare(axes, "x")
    grid[0].set_yticks(range(len(results.heads)), results.heads, fontsize=8)
    grid[0].set_ylim(len(results.heads) - 0.5, -0.5)
    return figure


def draw_costs(results: Results, phase: str) -> Figure:
    """Plot the mean over tasks against parameters and against training time, both on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = _figure(8.4, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    split = results.judged(phase, MEAN)
    for index, head in enumerate(results.heads):
        over = results.over(head, phase, MEAN, split)
        time = results.seconds(head, phase)
        for axes, cost, std in ((left, results.parameters.get(head), 0.0), (right, time.mean, time.std)):
            if over.n and cost and math.isfinite(cost):
                colour, mark = style(index)
                bars = [over.high - over.mean if over.n > 1 else 0.0], [std if time.n > 1 else 0.0]
                axes.errorbar([cost], [over.mean], *bars, fmt=mark, color=colour, markersize=5, linewidth=1.2)
                axes.annotate(head, (cost, over.mean), (6, 5), textcoords="offset points", fontsize=8)
    for axes, name in ((left, "parameters of the head"), (right, "training time of a seed, s")):
        # Ticks at 1, 2 and 5, in plain numbers: powers of ten would be formulas.
        axes.set(xlabel=name, xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.25, y=0.1)
        _bare(axes, "y")
    left.set_ylabel(f"mean of metrics, {split}")
    return figure


def draw_confusion(predictions: TaskPredictions) -> Figure:
    """One confusion matrix per head, in per cent of the examples with each label."""
    classes = predictions.task.classes
    size = 0.75 + 0.42 * len(classes)
    figure, grid = _grid(predictions.heads, size + 0.5, size + 0.35)
    for axes, (head, found) in zip(grid, predictions.heads.items(), strict=False):
        shares = 100 * found.confusion / np.maximum(found.confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (row, column), share in np.ndenumerate(shares):
            ink = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=ink)
        axes.set_xticks(range(len(classes)), classes, fontsize=7, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(head, fontsize=9)
    figure.supxlabel(f"predicted, % of the label ({predictions.task.name}, {predictions.split})", fontsize=8)
    return figure


def draw_calibration(predictions: TaskPredictions) -> Figure:
    """One panel per head. Classes: how often a stated probability is right. Scores: label against prediction."""
    figure, grid = _grid(predictions.heads, 2.5, 2.5)
    task = predictions.task
    low, high = (0.0, 1.0) if task.classes else (task.low, task.high)
    for index, (axes, (head, found)) in enumerate(zip(grid, predictions.heads.items(), strict=True)):
        (colour, _), (count, x, y) = style(index), found.bins[found.bins[:, 0] > 0].T
        if not task.classes:
            axes.plot(found.said, predictions.labels, ".", color=colour, alpha=0.15, markersize=3, rasterized=True)
        axes.plot(x / count, y / count, color=colour, linewidth=1.4)
        axes.scatter(x / count, y / count, 6 + 90 * count / count.sum(), color=colour, zorder=3, clip_on=False)
        axes.plot([low, high], [low, high], "--", color=_GREY, linewidth=0.8, zorder=0)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        error = spread(found.errors)
        axes.set_title(f"{head}\n{'ECE' if task.classes else 'RMSE'} {error.mean:.3f}", fontsize=8)
        _bare(axes, "y")
    figure.supxlabel("stated probability" if task.classes else "predicted score", fontsize=8)
    figure.supylabel("share that is right" if task.classes else "label", fontsize=8)
    return figure


def _grid(heads: Sized, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Make one panel per head, at most five in a row."""
    count = len(heads)
    columns = min(5, count)
    rows = -(-count // columns)
    figure = _figure(width * columns + 0.3, height * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, list(grid[:count])


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _bare(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="#E5E5E5", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def write_figures(stored: Stored, predictions: Mapping[str, TaskPredictions], folder: Path) -> list[Path]:
    """Write each plot as `NAME.png` and `NAME.svg`. Returns the paths in the order of the HTML page.

    Raises:
        UserError: matplotlib is not installed, or a file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise UserError("figures take matplotlib: pip install 'benchkit[plots]'")
    from matplotlib import rc_context

    paths = []
    # Names are text, not formulas, though they hold a `$`; SVG keeps words as words, and is the same each time.
    with rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "benchkit"}):
        for name, figure in _figures(stored, predictions):
            for kind in ("png", "svg"):
                paths.append(folder / f"{re.sub(_UNSAFE, '-', name)}.{kind}")
                write_figure(figure, paths[-1])
    return paths


def _figures(stored: Stored, predictions: Mapping[str, TaskPredictions]) -> Iterator[tuple[str, Figure]]:
    results = stored.results
    for phase in results.phases:
        yield f"scores-{phase or 'none'}", draw_scores(results, phase)
    if drawn := draw_curves(results, stored.records, stored.controls_with_loss):
        yield "curves", drawn
    for phase in results.phases:
        yield f"costs-{phase or 'none'}", draw_costs(results, phase)
    for task, found in predictions.items():
        if found.task.classes:
            yield f"confusion-{task}", draw_confusion(found)
        yield f"calibration-{task}", draw_calibration(found)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix. The file is written completely or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    buffer, kind = io.BytesIO(), path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
    write_atomic(path, buffer.getvalue(), durable=False)
