"""The page's charts, and each plot as a file."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from benchkit.analysis.html.content import Observed, Outcome, judged
from benchkit.analysis.html.markup import HUES, Markup, join, tag
from benchkit.analysis.plots import COLOURS, style
from benchkit.analysis.report import curves_frame
from benchkit.analysis.results import MEAN, Results
from benchkit.analysis.statistics import Spread, spread
from benchkit.core.errors import UserError
from benchkit.store.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchkit.analysis.html.content import Content


WIDTH, HEIGHT, _RULER, _MARGIN = 216, 26, 22, 8


@dataclass(frozen=True)
class Axis:
    """What all rows of a table are drawn on."""

    low: float
    high: float

    def place(self, value: float) -> float:
        return _MARGIN + (value - self.low) / (self.high - self.low) * (WIDTH - 2 * _MARGIN)

    def clip(self, value: float) -> float:
        return min(max(value, self.low), self.high)


def axis(seeds: Iterable[Sequence[float]], spreads: Iterable[Spread]) -> Axis | None:
    """One that holds every seed, and the intervals as far as they are not much wider than all seeds together: that of
    two seeds can be wider than what the metric can be.
    """
    values = [value for each in seeds for value in each if math.isfinite(value)]
    if not values:
        return None
    low, high = min(values), max(values)
    room = max(high - low, 0.005)
    ends = [(each.low, each.high) for each in spreads if math.isfinite(each.low)]
    lowest = max(min([end[0] for end in ends], default=low), low - room)
    highest = min(max([end[1] for end in ends], default=high), high + room)
    edge = max(highest - lowest, 0.005) * 0.03
    return Axis(min(lowest, low) - edge, max(highest, high) + edge)


def row(scale: Axis, values: Sequence[float], over: Spread, index: int, control: float | None, label: str) -> Markup:
    """Mean as a mark, interval as a line, seeds as ticks, the control dotted."""
    y = HEIGHT / 2
    parts = [_control(scale, control)]
    if math.isfinite(over.low):
        low, high = scale.clip(over.low), scale.clip(over.high)
        parts.append(tag("line", x1=_at(scale, low), x2=_at(scale, high), y1=y, y2=y, class_="ci"))
        parts += [_arrow(scale, end, y) for end in (over.low, over.high) if scale.clip(end) != end]
    for value in values:
        parts.append(tag("line", x1=_at(scale, value), x2=_at(scale, value), y1=y - 5, y2=y + 5, class_="seed"))
    if math.isfinite(over.mean):
        parts.append(_mark(scale.place(over.mean), y, index))
    return _picture(f"s{index % HUES}", label, parts, HEIGHT)


def ruler(scale: Axis) -> Markup:
    """The axis itself: a tick at each of a few round numbers."""
    step = 10 ** math.floor(math.log10((scale.high - scale.low) / 2))
    step = next(step * each for each in (5, 2, 1, 0.5) if (scale.high - scale.low) / (step * each) >= 2)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [i * step for i in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]
    parts = [tag("line", x1=_MARGIN, x2=WIDTH - _MARGIN, y1=1, y2=1, class_="base")]
    for tick in ticks:
        x = _at(scale, tick)
        parts.append(tag("line", x1=x, x2=x, y1=1, y2=5, class_="base"))
        parts.append(tag("text", f"{tick:.{digits}f}".replace("-", "−"), x=x, y=18, text_anchor="middle"))
    return _picture("ruler", "", parts, _RULER)


def _control(scale: Axis, control: float | None) -> Markup:
    """A dotted line; none where it is off the axis, which is there to tell heads apart."""
    if control is None or scale.clip(control) != control:
        return join([])
    x = _at(scale, control)
    return tag("line", x1=x, x2=x, y1=0, y2=HEIGHT, class_="control")


def _arrow(scale: Axis, end: float, y: float) -> Markup:
    """An interval that goes on beyond the axis."""
    x, towards = (scale.place(scale.low), 1) if end < scale.low else (scale.place(scale.high), -1)
    return tag("path", d=f"M{x + 4 * towards:.1f} {y - 4}L{x:.1f} {y}L{x + 4 * towards:.1f} {y + 4}", class_="ci")


def _mark(x: float, y: float, index: int) -> Markup:
    kind = index // HUES % 3
    if kind == 0:
        return tag("circle", cx=f"{x:.1f}", cy=y, r=4.2, class_="mean")
    if kind == 1:
        return tag("rect", x=f"{x - 3.8:.1f}", y=y - 3.8, width=7.6, height=7.6, class_="mean")
    return tag("path", d=f"M{x:.1f} {y - 5}l5 5l-5 5l-5 -5Z", class_="mean")


def _at(scale: Axis, value: float) -> str:
    return f"{scale.place(value):.1f}"


def _picture(class_: str, label: str, parts: Sequence[Markup], height: int) -> Markup:
    return tag(
        "svg", *parts, class_=f"forest {class_}", viewBox=f"0 0 {WIDTH} {height}", width=WIDTH, height=height,
        role="img" if label else None, aria_label=label or None, aria_hidden=None if label else "true",
    )  # fmt: skip


POINTS = 2000
"""Examples in a scatter; of more, every so many-th of the sorted labels."""


def as_json(content: Content) -> Markup:
    """What `page.js` reads; no character of it can end the `<script>` it stands in."""
    results = content.results
    data = {
        "colours": HUES,
        "heads": results.heads,
        "phases": list(reversed(results.phases)),
        "tasks": [*results.metrics],
        "metrics": results.metrics,
        "curves": _curves(content),
        "controls": [
            {"name": each.name, "task": each.task, "value": _short(each.value), "loss": _short(each.loss)}
            for each in results.controls
            if each.split == "dev"
        ],
        "costs": [
            _cost(results, phase, task, index)
            for phase in results.phases
            for task in (MEAN, *results.metrics)
            for index in range(len(results.heads))
        ],
        "calibration": [_calibration(results, each) for each in content.observed.values()],
    }
    return Markup(_inert(json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)))


def _inert(text: str) -> str:
    """The same JSON without `<`, `>`, `&` and the two line ends that only JavaScript knows."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _short(value: float) -> float | None:
    """Five significant digits: more cannot be seen. None for what is no number."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _list(values: Iterable[float]) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _curves(content: Content) -> list[dict[str, Any]]:
    """Mean, lowest and highest seed of each phase, task, split and head, epoch by epoch. What failed or diverged is
    left out.
    """
    results = content.results
    spoilt = {(fault.head, fault.seed) for fault in results.faults if not fault.counts}
    frame = curves_frame([each for each in content.records if (each.head, each.seed) not in spoilt])
    frame = frame.replace([np.inf, -np.inf], np.nan)
    keys = ["phase", "task", "split", "head"]
    over = frame.groupby([*keys, "epoch"], sort=False)[["value", "loss"]].agg(["mean", "min", "max"])
    seeds = frame.groupby(keys, sort=False)["seed"].nunique().to_dict()
    return [
        {
            "phase": phase,
            "task": task,
            "split": split,
            "head": results.heads.index(head),
            "seeds": int(seeds[phase, task, split, head]),
            "epochs": [int(each) for each in group.index.get_level_values("epoch")],
            "value": _band(group, "value"),
            "loss": _band(group, "loss"),
        }
        for (phase, task, split, head), group in over.groupby(level=keys, sort=False)
        if task in results.metrics
    ]


def _band(over: pd.DataFrame, what: str) -> list[list[float | None]]:
    return [_list(over[what, each]) for each in ("mean", "min", "max")]


def _cost(results: Results, phase: str, task: str, index: int) -> dict[str, Any]:
    head = results.heads[index]
    over = spread(results.seeds(head, phase, task, judged(results, phase, task)).values())
    time = spread(results.seconds(head, phase).values())
    return {
        "phase": phase,
        "task": task,
        "head": index,
        "split": judged(results, phase, task),
        "score": _list((over.mean, over.low, over.high)),
        "seeds": _list(results.seeds(head, phase, task, judged(results, phase, task)).values()),
        "parameters": results.parameters.get(head),
        "seconds": _list((time.mean, time.mean - time.std, time.mean + time.std)),
    }


def _calibration(results: Results, observed: Observed) -> dict[str, Any]:
    task = observed.task
    rows = _sample(observed.labels) if not task.classes else []
    return {
        "task": task.name,
        "split": observed.split,
        "examples": len(observed.labels),
        "classes": len(task.classes),
        "range": [0, 1] if task.classes else [task.low, task.high],
        "labels": [_rounded(each) for each in observed.labels[rows]],
        "heads": [
            {
                "head": results.heads.index(head),
                "bins": [[_rounded(x / n), _rounded(y / n), _short(n / outcome.bins[:, 0].sum())]
                         for n, x, y in outcome.bins if n],
                "error": [_short(spread(outcome.errors).mean), _short(spread(outcome.errors).std)],
                "said": [_rounded(each) for each in outcome.said[rows]],
            }
            for head, outcome in observed.outcomes.items()
        ],
    }  # fmt: skip


def _rounded(value: float) -> float:
    return round(float(value), 3)


def _sample(labels: np.ndarray) -> Sequence[int]:
    """Rows of a scatter, spread evenly over the labels."""
    order = np.argsort(labels, kind="stable")
    step = max(1, math.ceil(len(order) / POINTS))
    return [int(each) for each in order[::step]]


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


def write_figures(content: Content, folder: Path) -> list[Path]:
    """Write each plot as `NAME.png` and `NAME.svg`; the paths, in the page's order.

    Raises:
        UserError: matplotlib is not installed, or a file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise UserError("figures take matplotlib: pip install 'benchkit[plots]'")
    from matplotlib import rc_context

    paths = []
    # Names are text, not formulas, though they hold a `$`; SVG keeps words as words, and is the same each time.
    with rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "benchkit"}):
        for name, figure in _figures(content):
            for kind in ("png", "svg"):
                path = folder / f"{_file_name(name)}.{kind}"
                write_atomic(path, _render(figure, kind), durable=False)
                paths.append(path)
    return paths


def _figures(content: Content) -> Iterator[tuple[str, Figure]]:
    from benchkit.analysis.plots import draw_curves

    results = content.results
    for phase in results.phases:
        yield f"scores-{phase or 'none'}", scores(results, phase)
    curves = draw_curves(content.records, controls=results.controls, tasks=content.stored.tasks, phases=results.phases)
    if curves is not None:
        yield "curves", curves
    for phase in results.phases:
        yield f"costs-{phase or 'none'}", costs(results, phase)
    for task, observed in content.observed.items():
        if observed.task.classes:
            yield f"confusion-{task}", confusion(observed)
        yield f"calibration-{task}", calibration(observed)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _render(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
    return buffer.getvalue()
