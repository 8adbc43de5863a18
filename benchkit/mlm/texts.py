"""The texts of a pre-training: read, made distinct, and a fixed part of them held out."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchkit.data.load import DEMO, load_demo, load_files, load_own
from benchkit.data.locate import check_folder, find_splits
from benchkit.data.tables import read_table
from benchkit.errors import UserError, unknown
from benchkit.task import TaskSpec

TABLES = (".tsv", ".csv", ".jsonl", ".parquet")
_USUAL = ("text", "sentence", "sentence1", "sentence2")


@dataclass(frozen=True)
class Source:
    """One file, or one task's training split; `sha256` is of the file's bytes."""

    name: str
    sha256: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """Distinct texts in the order of their sources, the held-out ones apart."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 over all texts: equal means that the same is trained on and the same held out."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            digest.update(len(part).to_bytes(8, "little"))
            for text in part:
                data = text.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def split_texts(sources: Sequence[Source], share: float) -> Texts:
    """Distinct texts; held out are those with the lowest hashes, so the same ones whatever stands beside them.

    Raises:
        UserError: there are not two distinct texts.
    """
    distinct = list(dict.fromkeys(text for source in sources for text in source.texts))
    if len(distinct) < 2:
        names = ", ".join(source.name for source in sources)
        raise UserError(f"{names}: {len(distinct)} distinct texts; at least two are needed, one to be held out")
    by_hash = sorted(distinct, key=lambda text: hashlib.sha256(text.encode()).digest())
    count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
    held_out = set(by_hash[:count])
    return Texts(
        tuple(text for text in distinct if text not in held_out),
        tuple(text for text in distinct if text in held_out),
        tuple(sources),
    )


def read_file(path: Path, columns: Sequence[str] = ()) -> Source:
    """The texts of a table's columns, or else the lines of a plain file; empty ones are left out; each may be `.gz`.

    Args:
        columns: of a table; by default those of text, sentence, sentence1, sentence2 that it has.

    Raises:
        UserError: the file cannot be read or is not UTF-8, or the table has no such column.
    """
    if Path(path.name.removesuffix(".gz")).suffix in TABLES:
        return _table(path, columns)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): copy or download it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert the file to UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path} holds a NUL byte: not a text file, or not whole")
    return Source(path.name, sha256, _stripped(text.split("\n")))


def _table(path: Path, columns: Sequence[str]) -> Source:
    table = read_table(path)
    chosen = tuple(columns) or tuple(name for name in _USUAL if name in table.columns)
    if not chosen:
        raise UserError(f"{path} has columns {', '.join(table.columns)}: say with --column which hold text")
    for name in chosen:
        if name not in table.columns:
            raise UserError(f"{path}: {unknown('column', name, table.columns)}")
    numbers = [table.columns.index(name) for name in chosen]
    cells = (row[number] for _, row in table.rows for number in numbers)
    return Source(path.name, table.sha256, _stripped(cell for cell in cells if isinstance(cell, str)))


def read_tasks(data: str, tasks: Sequence[TaskSpec]) -> list[Source]:
    """The texts of the training splits, and of no other split: dev and test are not even opened.

    Raises:
        UserError: no such folder, or none of the tasks has a training split in it.
    """
    sources = []
    if data != DEMO:
        check_folder(Path(data))
    for task in tasks:
        if data == DEMO:
            split = load_demo(task)["train"]
        elif "train" in (found := find_splits(Path(data), task)):
            split = load_files(Path(data), {"train": found["train"]}, task)["train"]
        elif task.data is not None:
            split = load_own(task)["train"]
        else:
            continue
        texts = _stripped(text for row in split.texts for text in row)
        sources.append(Source(f"{task.name}/train", split.sha256, texts))
    if not sources:
        names = ", ".join(task.name for task in tasks) or "none is installed"
        raise UserError(f"no training split of any task in {data} (tasks: {names})")
    return sources


def _stripped(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(stripped for text in texts if (stripped := text.strip()))
