"""Aligned columns for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 100


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A table with a rule below its header; the last column is wrapped to what `WIDTH` leaves for it.

    Args:
        right: names of the columns that are aligned right.
    """
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header) - 1)]
    room = max(20, WIDTH - sum(widths) - 2 * len(widths))
    lines = []
    for *cells, last in (header, *rows):
        fitted = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, cells, widths, strict=False)
        ]
        for number, part in enumerate(textwrap.wrap(last, room, break_on_hyphens=False) or [""]):
            before = fitted if not number else [" " * width for width in widths]
            lines.append("  ".join([*before, part]).rstrip())
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def paragraph(text: str, indent: str = "  ") -> str:
    """Wrapped to `WIDTH`, with a hanging indent; long words, such as paths, are left whole."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
