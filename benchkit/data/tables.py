"""Files as tables of cells: JSON, Parquet, Arrow and delimited text. The format follows from the name."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.core.errors import UserError
from benchkit.core.settings import read_json

if TYPE_CHECKING:
    import pyarrow as pa

UNPACKED, RATIO = 2**28, 50
"""A packed file may unpack to 256 MiB, or to 50 times its size where that is more: text packs 3 to 10 times."""


@dataclass(frozen=True)
class Table:
    """A header and the rows that fit it.

    Attributes:
        rows: (line, cells), a cell for each column; text, or for JSON, Parquet and Arrow any value.
        bad: (line, reason) of rows that do not fit, each with the lines it takes up.
        dialect: what the format was taken to be.
        sha256: of the file, or of the files of one split, one after the other.
    """

    columns: Sequence[str]
    rows: list[tuple[int, Sequence[Any]]]
    bad: list[tuple[int, str]]
    dialect: str
    sha256: str = ""


def read_table(path: Path) -> Table:
    """Read `.tsv`, `.csv`, `.jsonl` (each also `.gz`), `.parquet`, or a folder that `datasets.save_to_disk` wrote.

    The first of several Parquet files (`train-00000-of-00002.parquet`) stands for all of them.

    Raises:
        UserError: the file cannot be read, is truncated, unpacks to too much, is not UTF-8, is empty, has an unknown
            suffix or mixed quoting; or one of several files is missing.
    """
    kind = format_of(path)
    paths = _arrow_files(path) if kind == "arrow" else _parquet_files(path)
    parts, digest = [], hashlib.sha256()
    for each in paths:
        try:
            data = each.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read {each}: {error.strerror or error}") from error
        digest.update(data)
        if each.suffix == ".gz":
            data = unpack(data, each)
        if not data.strip():
            raise UserError(f"{each} is empty: expected a header row and data")
        parts.append(data)
    if kind in ("parquet", "arrow"):
        table = _columnar(parts, paths, kind.title())
    else:
        text = _text(parts[0], path)
        table = _json(text, path) if kind == "jsonl" else read_delimited(text, path, csv=kind == "csv")
    # Half a character may come from an escape in JSON; a name is shown, so it must be printable.
    names = tuple(name.encode("utf-8", "replace").decode() for name in table.columns)
    return replace(table, columns=names, sha256=digest.hexdigest())


def format_of(path: Path) -> str:
    """`tsv`, `csv`, `jsonl` or `parquet` by the suffix; `arrow` for a folder that `datasets.save_to_disk` wrote.

    Raises:
        UserError: another suffix.
    """
    if (path / STATE).is_file():
        return "arrow"
    name = path.name.removesuffix(".gz")
    kind = name.rpartition(".")[2]
    if kind not in ("tsv", "csv", "jsonl", "parquet") or (kind == "parquet" and name != path.name):
        raise UserError(f"{path}: unknown kind of file; use .tsv, .csv or .jsonl (also .gz), or .parquet")
    return kind


def unpack(data: bytes, path: Path) -> bytes:
    """The content of a gzip file.

    Raises:
        UserError: it is damaged, or unpacks to more than `UNPACKED` bytes and `RATIO` times its size.
    """
    limit = max(UNPACKED, RATIO * len(data))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(limit + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): copy or download it again") from error
    if len(content) > limit:
        raise _too_large(path, limit)
    return content


def _too_large(path: Path, limit: int) -> UserError:
    return UserError(f"{path} unpacks to more than {limit >> 20:,} MiB, the limit for a file of its size")


def _text(data: bytes, path: Path) -> str:
    """UTF-8, with or without a byte order mark; line ends of an old Mac, carriage returns alone, become line feeds."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line} is not UTF-8 text ({error.reason}): convert the file to UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}:{line} holds a NUL byte: not a text file, or not whole")
    feeds, returns = text.count("\n"), text.count("\r") - text.count("\r\n")
    if not feeds:
        return text.replace("\r", "\n")
    if returns > feeds:
        raise UserError(
            f"{path}: {returns} lines end with a carriage return and {feeds} with a line feed: convert the line ends"
        )
    return text


def lines_of(text: str) -> list[str]:
    """Lines without their ends, and without blank ones at the end of the text."""
    # Not splitlines(): sentences may hold U+2028 and other separators that end no row.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip(" \r"):
        lines.pop()
    return lines


def _json(text: str, path: Path) -> Table:
    """One object a line, or a list of objects; the columns are all names that occur, in order of appearance."""
    values: Iterable[Any] = map(_parsed, lines_of(text))
    unit = "line"
    if text.lstrip().startswith("[") and isinstance(whole := _parsed(text), list):
        values, unit = whole, "item"
    objects: list[tuple[int, dict[str, Any]]] = []
    bad = []
    columns: dict[str, None] = {}
    for number, value in enumerate(values, start=1):
        if isinstance(value, dict):
            objects.append((number, value))
            columns.update(dict.fromkeys(value))
        else:
            bad.append((number, value if isinstance(value, _BadJson) else _BadJson("not a JSON object")))
    if not objects:
        first = f": {unit} {bad[0][0]} is {bad[0][1]}" if bad else ""
        raise UserError(f"{path} holds no JSON object{first}; expected one a line, or a list of them")
    rows: list[tuple[int, Sequence[Any]]] = [(n, [value.get(c) for c in columns]) for n, value in objects]
    name = "JSON Lines" if unit == "line" else "JSON list"
    return Table(list(columns), rows, [(n, str(why)) for n, why in bad], name)


class _BadJson(str):
    """Why a text is not JSON."""


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if text else _BadJson("empty line")
    except RecursionError:
        return _BadJson("bad JSON (nested too deeply)")
    except ValueError as error:
        return _BadJson(f"bad JSON ({getattr(error, 'msg', error)})")


_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.parquet")
STATE = "state.json"
"""In a folder that `datasets.save_to_disk` wrote, for each split."""


def _parquet_files(path: Path) -> list[Path]:
    """All files of a split, in order; `path` is the first, or the only one.

    Raises:
        UserError: one is missing.
    """
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match[2]):
        return [path]
    count = int(match[3])
    if len(list(path.parent.glob("*.parquet"))) < count:  # before a list of that length is made
        raise UserError(f"{path} is the first of {count} files, and not all of them are in its folder")
    paths = [path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.parquet") for number in range(count)]
    for each in paths:
        if not each.is_file():
            raise UserError(f"{path} is the first of {count} files, and {each.name} is not there")
    return paths


def _arrow_files(folder: Path) -> list[Path]:
    """The files of a data set that `datasets.save_to_disk` wrote.

    Raises:
        UserError: its `state.json` says something else.
    """
    state = read_json(folder / STATE)
    files = state.get("_data_files")
    names = [each.get("filename") if isinstance(each, dict) else None for each in files or ()] if files else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{folder / STATE} names no Arrow files: save the data set again with save_to_disk")
    if state.get("_indices_data_files"):
        raise UserError(f"{folder} is a selection of other rows: call flatten_indices() before save_to_disk")
    return [folder / str(name) for name in names]


def _batches(data: bytes, kind: str) -> tuple[pa.Schema, Iterable[pa.RecordBatch]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "Arrow":
        stream = pa.ipc.open_stream(pa.BufferReader(data))
        return stream.schema, stream
    file = pq.ParquetFile(pa.BufferReader(data))
    return file.schema_arrow, file.iter_batches(batch_size=1024)


def _columnar(parts: list[bytes], paths: list[Path], kind: str) -> Table:
    import pyarrow as pa

    tables = []
    for data, path in zip(parts, paths, strict=True):
        limit, size, taken = max(UNPACKED, RATIO * len(data)), 0, []
        try:
            schema, batches = _batches(data, kind)
            for batch in batches:
                taken.append(batch)
                if (size := size + batch.nbytes) > limit:
                    raise _too_large(path, limit)
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise UserError(f"{path} is not a whole {kind} file ({reason}): copy or download it again") from error
        tables.append(pa.Table.from_batches(taken, schema))
        if tables[-1].column_names != tables[0].column_names:
            names = ", ".join(tables[-1].column_names)
            raise UserError(f"{path} has the columns {names}, and {paths[0].name} others")
    names = tables[0].column_names
    columns = [
        [value for table in tables for value in _values(table.column(at), name, paths[0])]
        for at, name in enumerate(names)
    ]
    rows: list[tuple[int, Sequence[Any]]] = list(enumerate(zip(*columns, strict=True), start=1))
    return Table(names, rows, [], kind if len(paths) == 1 else f"{kind}, {len(paths)} files")


def _values(column: pa.ChunkedArray, name: str, path: Path) -> list[Any]:
    import pyarrow as pa

    try:
        return list(column.to_pylist())
    except OverflowError:  # a date that Python's own types cannot hold
        with suppress(pa.ArrowException):
            return list(column.cast(pa.string()).to_pylist())
        raise UserError(f"{path}: column {name!r} holds a date out of range") from None
    except ValueError as error:
        raise UserError(f"{path}: column {name!r} holds what cannot be read: {error}") from error


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


def read_delimited(text: str, path: Path, csv: bool) -> Table:
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
    return Table(chosen.columns, chosen.rows, chosen.bad, f"{kind}, {name}")


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
