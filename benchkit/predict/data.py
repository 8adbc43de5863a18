"""Texts to predict for, and files of predictions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from benchkit.core.errors import UserError
from benchkit.core.plugins import Plugins
from benchkit.core.record import Record
from benchkit.data import Split, load_data
from benchkit.data.readers import ID_NAMES
from benchkit.data.tables import Table, format_of, read_table
from benchkit.predict.model import InputFormat, Model, Prediction, short
from benchkit.store.cells import CellStore
from benchkit.store.files import write_atomic

Texts = tuple[str, ...]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Input:
    """One example to predict for; `id` is None where its source gives none."""

    id: str | None
    texts: Texts


def from_arguments(arguments: Sequence[str], format: InputFormat) -> list[Input]:
    """Each argument a sentence; for pairs two by two.

    Raises:
        UserError: a pair has no second sentence, or a text is empty.
    """
    size = len(format.texts)
    if len(arguments) % size:
        raise UserError(f"a pair is two arguments, and {len(arguments)} were given: is a sentence not in quotes?")
    for number, text in enumerate(arguments, start=1):
        if not text.strip():
            raise UserError(f"argument {number} is empty")
    return [Input(None, tuple(arguments[at : at + size])) for at in range(0, len(arguments), size)]


def from_lines(lines: Iterable[str], format: InputFormat, where: str) -> Iterator[Input]:
    """Each line a sentence; for pairs with a tab between them. Empty lines are passed over.

    Raises:
        UserError: a line has another number of texts.
    """
    size = len(format.texts)
    for number, line in enumerate(lines, start=1):
        text = line.removesuffix("\n").removesuffix("\r")
        if not text.strip():
            continue
        texts = tuple(part.strip() for part in text.split("\t")) if size > 1 else (text.strip(),)
        if len(texts) != size or not all(texts):
            raise UserError(f"{where}:{number}: a line holds {size} texts with a tab between them, not {text!r:.80}")
        yield Input(None, texts)


def from_file(path: Path, format: InputFormat, log: Log) -> Iterator[Input]:
    """A `.txt` file line by line, or a table with a header: .tsv, .csv, .jsonl (each also .gz), .parquet.

    A row with an empty text is left out, and `log` told so.

    Raises:
        UserError: the file cannot be read, or has no column for a text.
    """
    if path.suffix != ".txt":
        format_of(path)  # refuses what is none of these
        yield from _rows(read_table(path), format, path, log)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from from_lines(file, format, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: convert the file to UTF-8") from error


def _rows(table: Table, format: InputFormat, path: Path, log: Log) -> Iterator[Input]:
    names = [name.strip() for name in table.columns]
    texts = [_column(names, name, format, path) for name in format.texts]
    number = next((names.index(name) for name in (*format.aliases.get("id", ()), *ID_NAMES) if name in names), None)
    for line, reason in table.bad:
        log(f"left out {path}:{line}: {reason}")
    for line, cells in table.rows:
        found = tuple(str(cells[at]).strip() if isinstance(cells[at], str) else "" for at in texts)
        if all(found):
            yield Input(_id(cells, number), found)
        else:
            log(f"left out {path}:{line}: empty {format.texts[found.index('')]}")


def _column(names: Sequence[str], wanted: str, format: InputFormat, path: Path) -> int:
    accepted = (wanted, *format.aliases.get(wanted, ()))
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


CHUNK = 4096  # examples that are encoded together

# Of the CS224N project, by task: how file names begin, the header's column with its misspelling, and how a prediction
# is written. A class of a paraphrase is a float there, since it is the rounded sigmoid of one logit.
_COURSE: Mapping[str, tuple[str, str, type]] = {
    "sst": ("sst", "Predicted_Sentiment", int),
    "quora": ("para", "Predicted_Is_Paraphrase", float),
    "sts": ("sts", "Predicted_Similiary", float),
}


def write_submission(
    store: CellStore, record: Record, plugins: Plugins, model: Callable[[], Model], source: str, folder: Path, log: Log
) -> Iterator[Path]:
    """Write the files of the CS224N project from one cell: one for each task, and each of dev and test in the data.

    A row an example in the order of the data, ids in lower case, " , " between id and prediction.

    Args:
        model: opens the cell; called only if something must be predicted that the run did not.
        source: a data folder, `demo`, or "" for that of the run.

    Raises:
        UserError: the cell was trained on no task of the course, or the data cannot be read, or a file not written.
    """
    trained = [each["name"] for each in record.identity["tasks"]]
    names = [name for name in trained if name in _COURSE]
    if not names:
        raise UserError(f"the course's tasks are {', '.join(_COURSE)}; this cell was trained on {', '.join(trained)}")
    data = load_data(source or record.data["name"], [plugins.task(name) for name in names])
    for task, (stem, column, kind) in _COURSE.items():
        if task not in data:
            log(f"{stem}-*-output.csv are not written: the cell was not trained on {task}")
            continue
        for split in ("dev", "test"):
            path = folder / f"{stem}-{split}-output.csv"
            if split not in data[task]:
                log(f"{path.name} is not written: the data have no {split} split of {task}")
                continue
            found = _stored(store, record, data[task][split])
            if found is None:
                log(f"predicting {len(data[task][split]):,} rows of {task} {split}, which the run did not")
                found = _made(model(), task, data[task][split])
            rows = zip(data[task][split].ids, found, strict=True)
            lines = [
                f"id \t {column} \n",
                *(f"{name.strip().lower()} , {kind(short(value))} \n" for name, value in rows),
            ]
            write_atomic(path, "".join(lines).encode())
            yield path


def _stored(store: CellStore, record: Record, split: Split) -> list[float] | None:
    """The predictions of the run, if it made them for these rows."""
    if record.identity["data"][split.task].get(split.name) != split.digest():
        return None
    frame = store.predictions(record.key)
    values: list[float] = frame[(frame["task"] == split.task) & (frame["split"] == split.name)]["prediction"].tolist()
    return values


def _made(model: Model, task: str, split: Split) -> list[float]:
    parts = [list(split.texts[at : at + CHUNK]) for at in range(0, len(split), CHUNK)]
    return [each.value for part in parts for each in model.predict(task, part)]


_WIDTH = 100
_LEAST = 30  # columns of a text

Predicted = tuple[Input, Prediction]


def write(file: IO[str], predicted: Iterable[Predicted], format: InputFormat, kind: str) -> None:
    """Write predictions as a `table`, `csv` or `jsonl`, each as soon as it is there."""
    {"table": _table, "csv": _csv, "jsonl": _jsonl}[kind](file, predicted, format)


def write_file(path: Path, predicted: Iterable[Predicted], format: InputFormat, kind: str) -> None:
    """The same into a file, which is there only when it is complete.

    Raises:
        UserError: it cannot be written; also whatever making the predictions raises.
    """

    def fill(binary: BinaryIO) -> None:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="\n")
        write(text, predicted, format, kind)
        text.flush()
        text.detach()

    write_atomic(path, fill)


def _jsonl(file: IO[str], predicted: Iterable[Predicted], format: InputFormat) -> None:
    for given, each in predicted:
        named = {} if given.id is None else {"id": given.id}
        file.write(json.dumps({**named, **each.to_dict(format.texts)}, ensure_ascii=False) + "\n")


def _csv(file: IO[str], predicted: Iterable[Predicted], format: InputFormat) -> None:
    writer = csv.writer(file, lineterminator="\n")
    columns = ["prediction", "label", *format.classes] if format.classes else ["score"]
    for number, (given, each) in enumerate(predicted):
        if not number:
            writer.writerow(["id"] * (given.id is not None) + [*format.texts, *columns])
        values: list[Any] = [short(each.value)]
        if each.probabilities is not None:
            values = [each.label, int(each.value), *map(short, each.probabilities.values())]
        writer.writerow([given.id or ""] * (given.id is not None) + [*each.texts, *values])


def _table(file: IO[str], predicted: Iterable[Predicted], format: InputFormat) -> None:
    """Numbers first; then the texts, cut to what the width leaves for them.

    All probabilities, or that of the predicted class alone where all would leave too little for the texts.
    """
    classes, count = format.classes, len(format.texts)

    def fit(shares: Sequence[str]) -> tuple[list[int], int]:
        """Widths of the numbers' columns, and what they leave for one text."""
        first = [max(map(len, ("prediction", *classes)))] if classes else []
        widths = [*first, *(max(5, len(name)) for name in shares)]
        return widths, (_WIDTH - sum(widths) - 2 * len(widths) - 2 * (count - 1)) // count

    shares = classes or ("score",)
    if fit(shares)[1] < _LEAST:
        shares = ("probability",)
    widths, room = fit(shares)
    room = max(_LEAST, room)

    def line(cells: Sequence[str], texts: Sequence[str]) -> None:
        numbers = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        if classes:
            numbers[0] = cells[0].ljust(widths[0])
        file.write("  ".join([*numbers, *(_shortened(text, room).ljust(room) for text in texts)]).rstrip() + "\n")

    line(["prediction"] * bool(classes) + [*shares], format.texts)
    file.write("─" * _WIDTH + "\n")
    for _, each in predicted:
        if each.probabilities is None:
            line([f"{each.value:.3f}"], each.texts)
        else:
            shown = [each.probabilities.get(name, max(each.probabilities.values())) for name in shares]
            line([each.label, *(f"{value:.3f}" for value in shown)], each.texts)


def _shortened(text: str, room: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= room else flat[: room - 1] + "…"
