"""Rows between tabs, commas or semicolons. All lines together say how a text is delimited and quoted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchkit.core.errors import UserError

Body = tuple[list[str], list[tuple[int, Sequence[Any]]], list[tuple[int, str]], str]
"""Columns; (line, cells) of the rows; (line, reason) of what is no row; what the format was taken to be."""


def lines_of(text: str) -> list[str]:
    """Lines without their ends, and without blank ones at the end of the text."""
    # Not splitlines(): sentences may hold U+2028 and other separators that end no row.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip(" \r"):
        lines.pop()
    return lines


_DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon"}
_DOUBLED = re.compile(r'"[^"]*(?:""[^"]*)+"')  # a field that only a CSV writer makes


@dataclass
class _Reading:
    """A text read one way.

    Attributes:
        against: lines that this way of reading cannot explain.
        quotes: the first line with a quote that the other way of reading explains, and how many there are.
        spans: the first row of more than one line, as its first and last line.
    """

    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, Sequence[Any]]] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    against: int = 0
    quotes: tuple[int, int] = (0, 0)
    spans: tuple[int, int] = (0, 0)

    def misread(self, line: int) -> None:
        self.against += 1
        self.quotes = (self.quotes[0] or line, self.quotes[1] + 1)


def read_delimited(text: str, path: Path, csv: bool) -> Body:
    """Rows of cells between tabs, commas or semicolons.

    The text is read both ways: line by line, where quotes are text like any other; and as CSV, with quoted fields and
    doubled quotes. Each way is held against the whole text: a line without the header's number of fields speaks
    against it, a field with doubled quotes against the first way, a quote where CSV has none against the second. The
    way with less against it is taken. Of two that are as good, it is the first if the rows differ, since it cannot lose
    any; if only quotes around whole fields differ, the suffix decides. The delimiter is found likewise.

    Args:
        csv: what the suffix says: quoted, or not.

    Raises:
        UserError: some lines are quoted as CSV, and others not.
    """
    lines = lines_of(text)
    found = [each for each in _DELIMITERS if each in lines[0]] or ["," if csv else "\t"]
    both = {delimiter: (_by_lines(lines, delimiter), _as_csv(lines, delimiter)) for delimiter in found}
    delimiter = min(found, key=lambda each: min(reading.against for reading in both[each]))
    plain, quoted = both[delimiter]
    (doubled_line, doubled), (stray_line, stray) = plain.quotes, quoted.quotes
    if 10 * min(doubled, stray) > max(doubled, stray):
        raise UserError(
            f"{path}: line {doubled_line} doubles its quotes as CSV does, line {stray_line} does not: save it with "
            "quoted fields throughout, or without quoting"
        )
    if plain.against != quoted.against:
        take_csv = quoted.against < plain.against
    else:
        take_csv = csv and len(quoted.rows) == len(plain.rows)
    if (csv or take_csv) and len(quoted.columns) == 1 and quoted.spans[0]:
        raise UserError(
            f"{path}: a quote opens in line {quoted.spans[0]} and closes in line {quoted.spans[1]}: with one column, "
            "that may be one row or several; save it as .jsonl, or without quotes"
        )
    chosen, name = (quoted, "quoted") if take_csv else (plain, "no quoting")
    kind = "TSV" if (delimiter, take_csv) == ("\t", False) else f"CSV, {_DELIMITERS[delimiter]} separated"
    return chosen.columns, chosen.rows, chosen.bad, f"{kind}, {name}"


def _by_lines(lines: list[str], delimiter: str) -> _Reading:
    """Each line is a row, and quotes are text."""
    reading = _Reading(lines[0].split(delimiter))
    width = len(reading.columns)
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(delimiter)
        if len(cells) != width:
            reading.bad.append((number, _misfit(cells, width) if line else "empty line"))
            reading.against += bool(line)
            continue
        reading.rows.append((number, cells))
        if '""' in line and any(map(_DOUBLED.fullmatch, cells)):
            reading.misread(number)
    if any(name.startswith('"') for name in reading.columns):
        reading.against += len(lines)  # no column is called so
    return reading


def _as_csv(lines: list[str], delimiter: str) -> _Reading:
    """Fields may be quoted, with doubled quotes and line breaks in them."""
    reading = _Reading()
    for first, last, cells, flaw in _records(lines, delimiter):
        if not reading.columns:
            reading.columns = cells
        elif flaw and not cells:
            reading.bad.append((first, flaw))
            reading.misread(first)
        elif len(cells) == len(reading.columns):
            reading.rows.append((first, cells))
            if last > first and not reading.spans[0]:
                reading.spans = first, last
            if flaw:
                reading.misread(first)
        elif first == last:
            blank = not lines[first - 1]
            reading.bad.append((first, "empty line" if blank else _misfit(cells, len(reading.columns))))
            reading.against += not blank
        else:
            reason = f"a quote opened in line {first} takes in the lines to {last}"
            reading.bad += [(line, reason) for line in range(first, last + 1)]
            reading.against += last - first + 1
    return reading


def _records(lines: list[str], delimiter: str) -> Iterator[tuple[int, int, list[str], str]]:
    """(first line, last line, cells, flaw) of each record.

    A quote that opens a field and does not close it costs its own line alone: that has no cells, and reading goes on
    with the next one. So it cannot take in rows, not even those that make a field with what follows them.
    """
    text, starts = "\n".join(lines), list(accumulate((len(line) + 1 for line in lines), initial=0))
    one = re.compile(rf'(?:"([^"]*+(?:""[^"]*+)*+)"|([^{delimiter}\n]*+))({delimiter}|\n|\Z)')
    width, is_row = lines[0].count(delimiter) + 1, _row_test(lines, delimiter)
    number = 0
    while number < len(lines):
        first = number
        number += 1
        if '"' not in lines[first]:
            yield number, number, lines[first].split(delimiter), ""
            continue
        cells, position, flaw, end = [], starts[first], "", delimiter
        while end == delimiter:
            match = one.match(text, position)
            assert match is not None  # an empty field at the least
            quoted, bare, end = match.groups()
            position = match.end()
            cells.append(bare if quoted is None else quoted.replace('""', '"'))
            number += (quoted or "").count("\n")
            if bare and '"' in bare:
                flaw = flaw or "a quote within a field"
                if bare.startswith('"'):
                    cells, number, flaw = [], first + 1, "a quote opens a field and does not close it"
                    break
        within = lines[first:number]
        if len(within) > 1 < width and (rows := sum(map(is_row, within))) > 1:
            flaw = f"a quote opened in line {first + 1} takes in the lines to {number}, {rows} of which are rows"
            cells, number = [], first + 1
        yield first + 1, number, cells, flaw


def _row_test(lines: list[str], delimiter: str) -> Callable[[str], bool]:
    """Whether a line can be a row by itself: it has all fields, and numbers where all lines without quotes have them.

    So a comma in a quoted text with line breaks does not make a row of a part of it.
    """
    width = lines[0].count(delimiter) + 1
    sure = [cells for line in lines[1:] if '"' not in line and len(cells := line.split(delimiter)) == width]
    numbers = [at for at in range(width) if sure and all(_is_number(cells[at]) for cells in sure)]

    def test(line: str) -> bool:
        cells = line.split(delimiter)
        return len(cells) == width and all(_is_number(cells[at].strip('"')) for at in numbers)

    return test


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _misfit(cells: Sequence[str], expected: int) -> str:
    reason = f"{len(cells)} field{'s' * (len(cells) != 1)}, {expected} expected"
    if any(cell.startswith('"') and cell.count('"') % 2 for cell in cells):
        return f"{reason}; a quote opens a field and does not close it"
    return f"{reason}; a carriage return is in it" if any("\r" in cell for cell in cells) else reason
