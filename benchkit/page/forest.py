"""Means, intervals and single seeds on one axis, a row a head: drawn here, so that they need no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchkit.page.markup import Markup, join, tag
from benchkit.page.rows import COLOURS
from benchkit.report.stats import Spread

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
    return _picture(f"s{index % COLOURS}", label, parts, HEIGHT)


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
    kind = index // COLOURS % 3
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
