"""Blocks of cells as text: a terminal's aligned columns, Markdown tables, or LaTeX's."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from benchkit.report import latex

Style = Literal["terminal", "markdown", "latex"]


@dataclass(frozen=True)
class Row:
    """Cells of one line; `aside` sets it apart from the others, as a control is."""

    cells: tuple[str, ...]
    aside: bool = False


@dataclass(frozen=True)
class Block:
    """A small table with its own header; `align` has `left` or `right` for each column."""

    header: tuple[str, ...]
    rows: Sequence[Row]
    align: tuple[str, ...]


def width(text: str) -> int:
    """Of the longest line."""
    return max((len(line) for line in text.splitlines()), default=0)


def table(blocks: Sequence[Block], style: Style) -> str:
    """Blocks below each other. On a terminal they share their columns' widths."""
    if style == "latex":
        return latex.table(
            [(block.header, [(row.cells, row.aside) for row in block.rows], block.align) for block in blocks]
        )
    return _terminal(blocks) if style == "terminal" else "\n\n".join(_markdown(block) for block in blocks)


def heading(text: str, style: Style) -> str:
    if style == "latex":
        return latex.heading(text)
    return text if style == "terminal" else f"### {escape(text)}"


def notes(lines: Sequence[str], style: Style, columns: int) -> str:
    """Footnotes, one a line; on a terminal wrapped to so many columns."""
    if style == "latex":
        return latex.notes(lines)
    if style == "markdown":
        return "\n".join(f"- {escape(line)}" for line in lines)
    return "\n".join(textwrap.fill(line, columns, subsequent_indent="  ") for line in lines)


def escape(text: str) -> str:
    """Markdown that shows this text."""
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", text)


def _terminal(blocks: Sequence[Block]) -> str:
    count = max(len(block.header) for block in blocks)
    align = next(block.align for block in blocks if len(block.header) == count)
    cells = [
        [*row, *[""] * (count - len(row))]
        for block in blocks
        for row in (block.header, *(_set_apart(row) for row in block.rows))
    ]
    text = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=align)
    lines = iter([line.rstrip() for line in text.splitlines()])
    rule = "─" * width(text)
    parts = []
    for block in blocks:
        header = next(lines)
        parts.append("\n".join([header, rule, *(next(lines) for _ in block.rows)]))
    return "\n\n".join(parts)


def _set_apart(row: Row) -> tuple[str, ...]:
    return (f"({row.cells[0]})", *row.cells[1:]) if row.aside else row.cells


def _markdown(block: Block) -> str:
    rows = [[_in_table(cell, row.aside) for cell in row.cells] for row in block.rows]
    header = [escape(cell) for cell in block.header]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=block.align)


def _in_table(cell: str, aside: bool) -> str:
    return f"*{escape(cell)}*" if aside and cell else escape(cell)
