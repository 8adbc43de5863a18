"""Examples from arguments, lines or files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchkit.data.rows import ID_NAMES
from benchkit.data.tables import Table, format_of, read_table
from benchkit.errors import UserError
from benchkit.predict.model import Question

Texts = tuple[str, ...]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """One example; `id` is None where its source gives none."""

    id: str | None
    texts: Texts


def from_arguments(arguments: Sequence[str], question: Question) -> list[Asked]:
    """Each argument a sentence; for pairs two by two.

    Raises:
        UserError: a pair has no second sentence, or a text is empty.
    """
    size = len(question.texts)
    if len(arguments) % size:
        raise UserError(f"a pair is two arguments, and {len(arguments)} were given: is a sentence not in quotes?")
    for number, text in enumerate(arguments, start=1):
        if not text.strip():
            raise UserError(f"argument {number} is empty")
    return [Asked(None, tuple(arguments[at : at + size])) for at in range(0, len(arguments), size)]


def from_lines(lines: Iterable[str], question: Question, where: str) -> Iterator[Asked]:
    """Each line a sentence; for pairs with a tab between them. Empty lines are passed over.

    Raises:
        UserError: a line has another number of texts.
    """
    size = len(question.texts)
    for number, line in enumerate(lines, start=1):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text.strip():
            continue
        texts = tuple(part.strip() for part in text.split("\t")) if size > 1 else (text.strip(),)
        if len(texts) != size or not all(texts):
            raise UserError(f"{where}:{number}: a line holds {size} texts with a tab between them, not {text!r:.80}")
        yield Asked(None, texts)


def from_file(path: Path, question: Question, log: Log) -> Iterator[Asked]:
    """A `.txt` file line by line, or a table with a header: .tsv, .csv, .jsonl (each also .gz), .parquet.

    A row with an empty text is left out, and `log` told so.

    Raises:
        UserError: the file cannot be read, or has no column for a text.
    """
    if path.suffix != ".txt":
        format_of(path)  # refuses what is none of these
        yield from _rows(read_table(path), question, path, log)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from from_lines(file, question, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: convert the file to UTF-8") from error


def _rows(table: Table, question: Question, path: Path, log: Log) -> Iterator[Asked]:
    names = [name.strip() for name in table.columns]
    texts = [_column(names, name, question, path) for name in question.texts]
    number = next((names.index(name) for name in (*question.aliases.get("id", ()), *ID_NAMES) if name in names), None)
    for line, reason in table.bad:
        log(f"left out {path}:{line}: {reason}")
    for line, cells in table.rows:
        found = tuple(str(cells[at]).strip() if isinstance(cells[at], str) else "" for at in texts)
        if all(found):
            yield Asked(_id(cells, number), found)
        else:
            log(f"left out {path}:{line}: empty {question.texts[found.index('')]}")


def _column(names: Sequence[str], wanted: str, question: Question, path: Path) -> int:
    accepted = (wanted, *question.aliases.get(wanted, ()))
    for name in accepted:
        if name in names:
            return names.index(name)
    there = ", ".join(name for name in names if name) or "none with a name"
    raise UserError(
        f"{path} has no column {' or '.join(map(repr, accepted))}, only {there}: name the columns in its first line"
    )


def _id(cells: Sequence[Any], number: int | None) -> str | None:
    if number is None or cells[number] is None:
        return None
    return str(cells[number]).strip()
