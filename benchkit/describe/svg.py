"""A figure as a standalone SVG, readable on light and dark pages: no fonts, scripts or files from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from xml.sax.saxutils import escape, quoteattr

from benchkit.describe.figure import SHARED, Figure
from benchkit.describe.layout import LINE, PAD, TEXT, TITLE, Layout, Slot, caption, lay_out
from benchkit.describe.mermaid import COLOURS, INK

_GREY = "#76808b"  # arrows and captions, which lie on the page itself
_MARGIN = 12
_CORNER = 6
_STAGGER = 6


def svg(drawn: Figure) -> str:
    """The encoder below, what tasks share above it, then a column a task, its output on top."""
    layout = lay_out(drawn)
    width, height = ceil(layout.width) + 2 * _MARGIN, ceil(layout.height) + 2 * _MARGIN
    size = f'width="{width}" height="{height}" viewBox="{-_MARGIN} {-_MARGIN} {width} {height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label={quoteattr(f"head {drawn.name}")}>',
        f"<title>{escape(f'head {drawn.name}')}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.5 L8 4 L0 7.5 Z" fill="{_GREY}"/></marker></defs>',
        f'<g font-family="sans-serif" font-size="{TEXT}" text-anchor="middle">',
        *_panels(drawn, layout),
        *(line for slot in layout.slots if slot.box for line in _arrows(slot)),
        *(line for slot in layout.slots if slot.box for line in _box(slot)),
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _panels(drawn: Figure, layout: Layout) -> Iterator[str]:
    """A tinted ground for each group, with its title: at the left of what is shared, on top of a branch."""
    for group, (x, y, width, height) in layout.panels.items():
        _, colour = COLOURS["trunk" if group == SHARED else "branch"]
        yield (
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="8" '
            f'fill="{colour}" fill-opacity="0.09" stroke="{colour}" stroke-opacity="0.35"/>'
        )
        left, anchor = (x + PAD, "start") if group == SHARED else (x + width / 2, "middle")
        lines = caption(drawn, group)
        for number, line in enumerate(lines):
            weight = f'font-size="{TITLE}" font-weight="600"' if number < len(lines) - 1 else ""
            yield (
                f'<text x="{left:.1f}" y="{y + LINE * (number + 1) + 2:.1f}" text-anchor="{anchor}" fill="{_GREY}" '
                f"{weight}>{escape(line)}</text>"
            )


def _box(slot: Slot) -> Iterator[str]:
    assert slot.box is not None
    fill, border = COLOURS[slot.box.kind]
    yield (
        f'<rect x="{slot.x - slot.width / 2:.1f}" y="{slot.top:.1f}" width="{slot.width:.1f}" '
        f'height="{slot.height:.1f}" rx="5" fill="{fill}" stroke="{border}"/>'
    )
    for number, line in enumerate(slot.box.lines):
        look = f'font-size="{TITLE}" font-weight="600"' if not number else ""
        look += ' font-style="italic"' if line == slot.box.shape else ""
        y = slot.top + 6 + LINE * (number + 0.75)
        yield f'<text x="{slot.x:.1f}" y="{y:.1f}" fill="{INK}" {look}>{escape(line)}</text>'


def _arrows(slot: Slot) -> Iterator[str]:
    """The arrows into a box, next to each other where there are several."""
    sources = sorted(slot.below, key=lambda each: each.x)
    for number, source in enumerate(sources):
        x = slot.x + (number - (len(sources) - 1) / 2) * min(24, slot.width / (len(sources) + 1))
        x = source.x if abs(x - source.x) < _CORNER else x
        # The nearer a source on one side, the lower its turn, so that arrows neither cross nor lie on each other.
        side = [each for each in sources if (each.x > slot.x) == (source.x > slot.x)]
        nearer = sum(abs(each.x - slot.x) < abs(source.x - slot.x) for each in side)
        lower = ((len(side) - 1) / 2 - nearer) * _STAGGER
        yield (
            f'<path d="{_line(source, x, slot.bottom, lower)}" fill="none" stroke="{_GREY}" marker-end="url(#arrow)"/>'
        )


def _line(source: Slot, x: float, y: float, lower: float) -> str:
    """From a box up to (x, y), through the lanes that lead there."""
    path = f" L{x:.1f} {y:.1f}"
    while True:
        path = _turn(source, x, (source.ceiling + y) / 2 + lower) + path
        if source.box:
            return f"M{source.x:.1f} {source.top:.1f}" + path
        path = f" L{source.x:.1f} {source.bottom:.1f}" + path
        source, x, y, lower = source.below[0], source.x, source.bottom, 0.0


def _turn(source: Slot, x: float, y: float) -> str:
    """At height y across to x, with rounded corners."""
    if abs(x - source.x) < 1:
        return ""
    side = 1 if x > source.x else -1
    r = min(_CORNER, abs(x - source.x) / 2)
    return (
        f" L{source.x:.1f} {y + r:.1f} Q{source.x:.1f} {y:.1f} {source.x + side * r:.1f} {y:.1f}"
        f" L{x - side * r:.1f} {y:.1f} Q{x:.1f} {y:.1f} {x:.1f} {y - r:.1f}"
    )
