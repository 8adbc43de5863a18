"""Files as tables of cells. The format follows from the file's name; a CSV's separator from its header line."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit.core.errors import UserError


@dataclass(frozen=True)
class Table:
    """A header and the rows that fit it.

    Attributes:
        rows: (line, cells), a cell for each column; text, or for JSON Lines and Parquet any value.
        bad: (line, reason) of rows that do not fit, each with the lines it takes up.
        dialect: what the format was taken to be.
    """

    columns: tuple[str, ...]
    rows: list[tuple[int, Sequence[Any]]]
    bad: list[tuple[int, str]]
    dialect: str
    sha256: str


_Body = tuple[list[str], list[tuple[int, Sequence[Any]]], list[tuple[int, str]], str]


def read_table(path: Path) -> Table:
    """Read `.tsv`, `.csv`, `.jsonl` (each also `.gz`) or `.parquet`.

    Raises:
        UserError: the file cannot be read, is truncated, is not UTF-8, is empty, or has an unknown suffix.
    """
    kind = format_of(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if path.suffix == ".gz":
        data = _gunzip(data, path)
    if not data.strip():
        raise UserError(f"{path} is empty: expected a header row and data")
    columns, rows, bad, dialect = _READERS[kind](data, path)
    return Table(tuple(columns), rows, bad, dialect, sha256)


def format_of(path: Path) -> str:
    """`tsv`, `csv`, `jsonl` or `parquet`, by the suffix.

    Raises:
        UserError: another suffix.
    """
    name = path.name.removesuffix(".gz")
    kind = name.rpartition(".")[2]
    if kind not in _READERS or (kind == "parquet" and name != path.name):
        raise UserError(f"{path}: unknown kind of file; use .tsv, .csv or .jsonl (also .gz), or .parquet")
    return kind


def _gunzip(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): copy or download it again") from error


def _text(data: bytes, path: Path) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line} is not UTF-8 text ({error.reason}): convert the file to UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}:{line} holds a NUL byte: not a text file, or not whole")
    return text


def _lines(text: str) -> list[str]:
    # Not splitlines(): sentences may hold U+2028 and other separators that end no row.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip(" \r"):
        lines.pop()
    return lines


def _tsv(data: bytes, path: Path) -> _Body:
    """Quotes are text like any other; a row is a line."""
    lines = _lines(_text(data, path))
    columns = lines[0].split("\t")
    rows: list[tuple[int, Sequence[Any]]] = []
    bad = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if len(cells) == len(columns):
            rows.append((number, cells))
        else:
            bad.append((number, _misfit(len(cells), len(columns)) if line else "empty line"))
    return columns, rows, bad, "TSV, no quoting"


def _csv(data: bytes, path: Path) -> _Body:
    """Quoted fields with doubled quotes; separated by tabs if the header holds one, else by commas."""
    text = _text(data, path)
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    rows: list[tuple[int, Sequence[Any]]] = []
    bad = []
    columns: list[str] = []
    end = text.rstrip("\r\n")
    for first, last, cells in _records(text, delimiter, path):
        # A quote in the last column that is never closed makes a row with the right number of fields.
        unclosed = last > first and last > end.count("\n") and not end.endswith('"')
        if not columns:
            columns = cells
        elif len(cells) == len(columns) and not unclosed:
            rows.append((first, cells))
        elif cells:
            reason = _misfit(len(cells), len(columns))
            if last > first:
                reason = f"a quote opened in line {first} takes in the lines to {last}"
            bad += [(line, reason) for line in range(first, last + 1)]
        else:
            bad.append((first, "empty line"))
    while bad and bad[-1][1] == "empty line" and (not rows or bad[-1][0] > rows[-1][0]):
        bad.pop()
    return columns, rows, bad, f"CSV, {'tab' if delimiter == chr(9) else 'comma'} separated, quoted"


def _records(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """(first line, last line, cells) of each record."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    last = 0
    while True:
        first = last + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{first}: {error}; is a quote opened here that is never closed?") from error
        last = reader.line_num
        yield first, last, cells


def _misfit(found: int, expected: int) -> str:
    return f"{found} field{'s' * (found != 1)}, {expected} expected"


def _jsonl(data: bytes, path: Path) -> _Body:
    """One object a line; the columns are all names that occur, in order of appearance."""
    objects: list[tuple[int, dict[str, Any]]] = []
    bad = []
    columns: dict[str, None] = {}
    for number, line in enumerate(_lines(_text(data, path)), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append((number, f"bad JSON ({getattr(error, 'msg', error)})" if line else "empty line"))
            continue
        if isinstance(value, dict):
            objects.append((number, value))
            columns.update(dict.fromkeys(value))
        else:
            bad.append((number, "not a JSON object"))
    rows: list[tuple[int, Sequence[Any]]] = [(n, [value.get(c) for c in columns]) for n, value in objects]
    return list(columns), rows, bad, "JSON Lines"


def _parquet(data: bytes, path: Path) -> _Body:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a whole Parquet file ({reason}): copy or download it again") from error
    cells = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return list(table.column_names), list(enumerate(cells, start=1)), [], "Parquet"


_READERS: dict[str, Callable[[bytes, Path], _Body]] = {"tsv": _tsv, "csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
