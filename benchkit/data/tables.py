"""Files as tables of cells. The format follows from the name."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.core.errors import UserError
from benchkit.core.settings import read_json
from benchkit.data.delimited import Body, lines_of, read_delimited

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

    columns: tuple[str, ...]
    rows: list[tuple[int, Sequence[Any]]]
    bad: list[tuple[int, str]]
    dialect: str
    sha256: str


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
    columns, rows, bad, dialect = _READERS[kind](parts, paths)
    # Half a character may come from an escape in JSON; a name is shown, so it must be printable.
    names = tuple(name.encode("utf-8", "replace").decode() for name in columns)
    return Table(names, rows, bad, dialect, digest.hexdigest())


def format_of(path: Path) -> str:
    """`tsv`, `csv`, `jsonl` or `parquet`, by the suffix; `arrow` for a folder that `datasets.save_to_disk` wrote.

    Raises:
        UserError: another suffix.
    """
    if (path / STATE).is_file():
        return "arrow"
    name = path.name.removesuffix(".gz")
    kind = name.rpartition(".")[2]
    if kind not in _READERS or (kind == "parquet" and name != path.name):
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


def _json(parts: list[bytes], paths: list[Path]) -> Body:
    """One object a line, or a list of objects; the columns are all names that occur, in order of appearance."""
    text = _text(parts[0], paths[0])
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
        raise UserError(f"{paths[0]} holds no JSON object{first}; expected one a line, or a list of them")
    rows: list[tuple[int, Sequence[Any]]] = [(n, [value.get(c) for c in columns]) for n, value in objects]
    return list(columns), rows, [(n, str(why)) for n, why in bad], "JSON Lines" if unit == "line" else "JSON list"


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


def _parquet(parts: list[bytes], paths: list[Path]) -> Body:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def open_file(data: bytes) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        file = pq.ParquetFile(pa.BufferReader(data))
        return file.schema_arrow, file.iter_batches(batch_size=1024)

    return _columnar(parts, paths, open_file, "Parquet")


def _arrow(parts: list[bytes], paths: list[Path]) -> Body:
    import pyarrow as pa

    def open_file(data: bytes) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        stream = pa.ipc.open_stream(pa.BufferReader(data))
        return stream.schema, stream

    return _columnar(parts, paths, open_file, "Arrow")


def _columnar(
    parts: list[bytes],
    paths: list[Path],
    open_file: Callable[[bytes], tuple[pa.Schema, Iterator[pa.RecordBatch]]],
    kind: str,
) -> Body:
    import pyarrow as pa

    tables = []
    for data, path in zip(parts, paths, strict=True):
        limit, size, taken = max(UNPACKED, RATIO * len(data)), 0, []
        try:
            schema, batches = open_file(data)
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
    return names, rows, [], kind if len(paths) == 1 else f"{kind}, {len(paths)} files"


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


_READERS: dict[str, Callable[[list[bytes], list[Path]], Body]] = {
    "tsv": lambda parts, paths: read_delimited(_text(parts[0], paths[0]), paths[0], csv=False),
    "csv": lambda parts, paths: read_delimited(_text(parts[0], paths[0]), paths[0], csv=True),
    "jsonl": _json,
    "parquet": _parquet,
    "arrow": _arrow,
}
