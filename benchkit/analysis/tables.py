"""Sections of a report, written once, as text for a terminal, Markdown and LaTeX; numbers in words."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from tabulate import tabulate

if TYPE_CHECKING:
    from benchkit.analysis.statistics import Spread

Style = Literal["terminal", "markdown", "latex"]
TERMINAL_WIDTH = 100
"""Columns of a terminal that notes are wrapped to."""


@dataclass(frozen=True)
class Row:
    """Cells of one line; `aside` sets it apart from the others, as a control is."""

    cells: tuple[str, ...]
    aside: bool = False


@dataclass(frozen=True)
class Intervals:
    """What a page draws next to the rows of a block, on one axis.

    Attributes:
        rows: of each row that is not aside: its mean with interval, and the value of each seed.
        control: what constant predictions score; None where that is unknown.
    """

    rows: Sequence[tuple[Spread, Sequence[float]]]
    control: float | None = None


@dataclass(frozen=True)
class Block:
    """A small table with its own header; `align` has `left` or `right` for each column."""

    header: tuple[str, ...]
    rows: Sequence[Row]
    align: tuple[str, ...]
    intervals: Intervals | None = None


@dataclass(frozen=True)
class Section:
    """A part of a report, the same in every format: a title ("" for none), tables, and notes below them."""

    title: str
    blocks: Sequence[Block] = ()
    notes: Sequence[str] = ()


def render(section: Section, style: Style = "terminal") -> str:
    """A section as text, without a line end."""
    parts = [heading(section.title, style)] if section.title else []
    parts += [table(section.blocks, style)] if section.blocks else []
    parts += [notes(section.notes, style)] if section.notes else []
    return "\n\n".join(parts)


def render_all(sections: Iterable[Section], style: Style = "terminal") -> str:
    """Sections below each other, with a line end."""
    return "\n\n".join(render(section, style) for section in sections) + "\n"


def table(blocks: Sequence[Block], style: Style) -> str:
    """Blocks below each other. On a terminal and in LaTeX they share their columns."""
    if style == "latex":
        return _latex(blocks)
    return _terminal(blocks) if style == "terminal" else "\n\n".join(_markdown(block) for block in blocks)


def heading(text: str, style: Style) -> str:
    if style == "latex":
        return rf"\paragraph{{{latex_escape(text)}}}\mbox{{}}\par\smallskip"
    return text if style == "terminal" else f"### {escape(text)}"


def notes(lines: Sequence[str], style: Style) -> str:
    """Footnotes, one a line; on a terminal wrapped."""
    if style == "latex":
        each = "".join(rf"\par {latex_escape(line)}" + "\n" for line in lines)
        return "\\par\\smallskip\n{\\footnotesize\\raggedright\n" + each + "\\par}"
    if style == "markdown":
        return "\n".join(f"- {escape(line)}" for line in lines)
    return "\n".join(textwrap.fill(line, TERMINAL_WIDTH, subsequent_indent="  ") for line in lines)


def escape(text: str) -> str:
    """Markdown that shows this text."""
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", text)


def fits_terminal(block: Block) -> bool:
    return max(map(len, _terminal([block]).splitlines())) <= TERMINAL_WIDTH


def _widest(blocks: Sequence[Block]) -> Block:
    return max(blocks, key=lambda block: len(block.header))


def _terminal(blocks: Sequence[Block]) -> str:
    widest = _widest(blocks)
    rows = [row for block in blocks for row in (Row(block.header), *block.rows)]
    cells = [
        [
            f"({row.cells[0]})" if row.aside else row.cells[0],
            *row.cells[1:],
            *[""] * (len(widest.header) - len(row.cells)),
        ]
        for row in rows
    ]
    text = tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=widest.align)
    lines = iter([line.rstrip() for line in text.splitlines()])
    rule = "─" * max(map(len, text.splitlines()))
    return "\n\n".join("\n".join([next(lines), rule, *(next(lines) for _ in block.rows)]) for block in blocks)


def _markdown(block: Block) -> str:
    rows = [[f"*{escape(cell)}*" if row.aside and cell else escape(cell) for cell in row.cells] for row in block.rows]
    header = [escape(cell) for cell in block.header]
    return tabulate(rows, header, tablefmt="pipe", disable_numparse=True, colalign=block.align)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "−": "$-$", "–": "--", "·": r"$\cdot$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "ε": r"$\varepsilon$",
    "…": r"\dots{}", '"': "''",
}  # fmt: skip


def latex_escape(text: str) -> str:
    """LaTeX that shows this text; a letter that its standard fonts lack as its code point."""
    return "".join(_LATEX.get(sign) or (sign if sign <= "ÿ" else f"[U+{ord(sign):04X}]") for sign in text)


def render_page(lines: Sequence[str], sections: Iterable[Section], style: Style) -> str:
    """Lines of plain text, not wrapped, and sections below them. LaTeX is what one pastes into a paper."""
    body = render_all(sections, style)
    if style != "latex":
        return "".join(f"{escape(line) if style == 'markdown' else line}\n" for line in lines) + f"\n{body}"
    body = re.sub(r"\n{3,}", "\n\n", "".join(f"{latex_escape(line)}\\par\n" for line in lines) + f"\n{body}").strip()
    needs = (
        "% Needs \\usepackage{booktabs}, \\usepackage[T1]{fontenc} and lines of about 15 cm; made by benchkit report."
    )
    setting = r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}\setlength{\parindent}{0pt}"
    return f"{needs}\n{setting}\n{body}\n\\par\\endgroup\n"


def _latex(blocks: Sequence[Block]) -> str:
    """One tabular of the package booktabs; a row that is set apart is in italics."""
    widest = _widest(blocks)
    count = len(widest.header)
    lines = [r"\begin{tabular}{" + "".join(each[0] for each in widest.align) + "}"]
    for place, block in enumerate(blocks):
        lines += [r"\addlinespace\midrule" if place else r"\toprule", _latex_row(block.header, count, ""), r"\midrule"]
        lines += [_latex_row(row.cells, count, r"\textit" if row.aside else "") for row in block.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_row(cells: Sequence[str], count: int, command: str) -> str:
    shown = [f"{command}{{{latex_escape(cell)}}}" if command and cell else latex_escape(cell) for cell in cells]
    return " & ".join([*shown, *[""] * (count - len(shown))]) + r" \\"


NOTHING = "–"


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457`, `−0.012`, `+0.012` where signed; a dash for none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def plus_minus(over: Spread, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457 ± 0.012`; one seed has no ±."""
    mean = number(over.mean, signed=signed, digits=digits)
    return f"{mean} ± {over.std:.{digits}f}" if over.n > 1 else mean


def interval(low: float, high: float, *, digits: int = 3) -> str:
    """`−0.012 to +0.031`, in words as a dash between signed numbers cannot be read; a dash for none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return " to ".join(number(end, signed=True, digits=digits) for end in (low, high))


def p_value(p: float | None) -> str:
    """`0.032`, `<0.001`."""
    if p is None or math.isnan(p):
        return NOTHING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """`0.8 s`, `48 s`, `3 min 12 s`, `1 h 39 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, left = divmod(round(seconds / 60), 60)
    return f"{hours} h {left:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def name_seeds(seeds: Iterable[int]) -> str:
    """`seed 1`, `seeds 0, 2`."""
    names = [str(seed) for seed in sorted(seeds)]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"


Key = TypeVar("Key")


def group_seeds(pairs: Iterable[tuple[Key, int]]) -> dict[Key, list[int]]:
    """The seeds of each key, in the order of the keys' first seeds."""
    found: dict[Key, list[int]] = {}
    for key, seed in pairs:
        found.setdefault(key, []).append(seed)
    return found


def ranges(values: Iterable[int]) -> str:
    """`0–9, 12`."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in parts)
