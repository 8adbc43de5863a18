"""Aligned columns for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from tabulate import tabulate

WIDTH = 100


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A table with a rule below its header; the last column is wrapped to what `WIDTH` leaves for it.

    Args:
        right: names of the columns that are aligned right.
    """
    left = sum(max(len(row[place]) for row in (header, *rows)) + 2 for place in range(len(header) - 1))
    room = max(20, WIDTH - left)
    cells = [[*row[:-1], "\n".join(textwrap.wrap(row[-1], room, break_on_hyphens=False))] for row in rows]
    align = ["right" if name in right else "left" for name in header]
    text = tabulate([list(header), *cells], tablefmt="plain", disable_numparse=True, colalign=align)
    first, *others = (line.rstrip() for line in text.splitlines())
    rule = "─" * max(len(line) for line in (first, *others))
    return "\n".join([first, rule, *others])


def paragraph(text: str, indent: str = "  ") -> str:
    """Wrapped to `WIDTH`, with a hanging indent; long words, such as paths, are left whole."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
