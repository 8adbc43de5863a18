"""The page's charts as matplotlib figures, for papers and slides."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING

import numpy as np

from benchkit.page.content import judged
from benchkit.page.outcomes import Observed, Outcome
from benchkit.report.plot import COLOURS, style
from benchkit.report.results import MEAN, Results
from benchkit.report.stats import Spread, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#777777"


def scores(results: Results, phase: str) -> Figure:
    """A panel a task and one for their mean: mean, 95 % interval and seeds of each head."""
    tasks = [MEAN, *results.metrics]
    figure = _figure(max(6.4, 2.7 * len(tasks)), 1.1 + 0.28 * len(results.heads))
    grid = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(grid, tasks, strict=True):
        split = judged(results, phase, task)
        for index, head in enumerate(results.heads):
            seeds = list(results.seeds(head, phase, task, split).values())
            _whiskers(axes, spread(seeds), seeds, index)
        control = [each.value for each in results.controls if (each.task, each.split) == (task, split)]
        if control and axes.get_xlim()[0] <= control[0] <= axes.get_xlim()[1]:
            axes.axvline(control[0], color=_GREY, linestyle="dotted", linewidth=1)
        axes.set_title("mean of tasks" if task == MEAN else f"{task}, {results.metrics[task]}", fontsize=9)
        axes.set_xlabel(split, fontsize=8)
        _bare(axes, "x")
    grid[0].set_yticks(range(len(results.heads)), results.heads, fontsize=8)
    grid[0].set_ylim(len(results.heads) - 0.5, -0.5)
    return figure


def _whiskers(axes: Axes, over: Spread, seeds: Sequence[float], index: int) -> None:
    colour, mark = style(index)
    axes.plot(seeds, [index] * len(seeds), "|", color=colour, markersize=7, alpha=0.6)
    if math.isfinite(over.low):
        axes.plot([over.low, over.high], [index, index], color=colour, linewidth=1.4)
    if over.n:
        axes.plot([over.mean], [index], mark, color=colour, markersize=5, markeredgecolor="white")


def costs(results: Results, phase: str) -> Figure:
    """Mean over tasks against parameters and against training time, both logarithmic."""
    figure = _figure(8.4, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    split = judged(results, phase, MEAN)
    for index, head in enumerate(results.heads):
        over = spread(results.seeds(head, phase, MEAN, split).values())
        time = spread(results.seconds(head, phase).values())
        for axes, cost, std in ((left, results.parameters.get(head), 0.0), (right, time.mean, time.std)):
            if over.n and cost and math.isfinite(cost):
                _point(axes, cost, std if time.n > 1 else 0.0, over, index, head)
    for axes, name in ((left, "parameters of the head"), (right, "training time of a seed, s")):
        axes.set_xlabel(name)
        _logarithmic(axes)
        axes.margins(x=0.25, y=0.1)
        _bare(axes, "y")
    left.set_ylabel(f"mean of metrics, {split}")
    return figure


def _logarithmic(axes: Axes) -> None:
    """Ticks at 1, 2 and 5, in plain numbers: powers of ten would be formulas."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _point(axes: Axes, x: float, x_std: float, over: Spread, index: int, head: str) -> None:
    colour, mark = style(index)
    half = over.high - over.mean if over.n > 1 else 0.0
    axes.errorbar([x], [over.mean], [half], [x_std], fmt=mark, color=colour, markersize=5, linewidth=1.2)
    axes.annotate(head, (x, over.mean), (6, 5), textcoords="offset points", fontsize=8)


def confusion(observed: Observed) -> Figure:
    """A matrix a head, in hundredths of each label."""
    classes = observed.task.classes
    size = 0.75 + 0.42 * len(classes)
    figure, grid = _grid(observed.outcomes, size + 0.5, size + 0.35)
    for axes, (head, outcome) in zip(grid, observed.outcomes.items(), strict=False):
        shares = 100 * outcome.confusion / np.maximum(outcome.confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for (row, column), share in np.ndenumerate(shares):
            ink = "white" if share > 55 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=ink)
        axes.set_xticks(range(len(classes)), classes, fontsize=7, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(head, fontsize=9)
    figure.supxlabel(f"predicted, % of the label ({observed.task.name}, {observed.split})", fontsize=8)
    return figure


def calibration(observed: Observed) -> Figure:
    """A panel a head: for classes how often a stated probability is right, for scores label against prediction."""
    figure, grid = _grid(observed.outcomes, 2.5, 2.5)
    task = observed.task
    low, high = (0.0, 1.0) if task.classes else (task.low, task.high)
    heads = list(observed.outcomes)
    for axes, (head, outcome) in zip(grid, observed.outcomes.items(), strict=False):
        _reliability(axes, observed, outcome, COLOURS[heads.index(head) % len(COLOURS)])
        axes.plot([low, high], [low, high], "--", color=_GREY, linewidth=0.8, zorder=0)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        error = spread(outcome.errors)
        axes.set_title(f"{head}\n{'ECE' if task.classes else 'RMSE'} {error.mean:.3f}", fontsize=8)
        _bare(axes, "y")
    figure.supxlabel("stated probability" if task.classes else "predicted score", fontsize=8)
    figure.supylabel("share that is right" if task.classes else "label", fontsize=8)
    return figure


def _reliability(axes: Axes, observed: Observed, outcome: Outcome, colour: str) -> None:
    if not observed.task.classes:
        axes.plot(outcome.said, observed.labels, ".", color=colour, alpha=0.15, markersize=3, rasterized=True)
    count, x, y = outcome.bins[outcome.bins[:, 0] > 0].T
    axes.plot(x / count, y / count, color=colour, linewidth=1.4)
    axes.scatter(x / count, y / count, 6 + 90 * count / count.sum(), color=colour, zorder=3, clip_on=False)


def _grid(heads: Sized, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """Panels for so many heads, at most five in a row."""
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
