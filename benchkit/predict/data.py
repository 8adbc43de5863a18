"""Texts to predict for, and files of predictions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from tabulate import tabulate

from benchkit.core.errors import UserError
from benchkit.core.plugins import Plugins
from benchkit.core.record import Record
from benchkit.data import Split, load_data
from benchkit.data.readers import BadRow, id_column, require_column, texts_of
from benchkit.data.tables import read_table
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
    """Each argument is a sentence; for pairs, every two arguments are an example.

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
    """Each line is a sentence, or a pair with a tab between its sentences. Empty lines are skipped.

    Raises:
        UserError: a line has the wrong number of texts.
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

    A column may have any of the names that the task's data may have, in any case. A row with an empty text is left out
    and reported to `log`.

    Raises:
        UserError: the file cannot be read, or has no column for a text.
    """
    if path.suffix != ".txt":
        table = read_table(path)
        columns = [require_column(table, name, format.aliases, path) for name in format.texts]
        number = id_column(table, format.aliases)
        for line, reason in table.bad:
            log(f"left out {path}:{line}: {reason}")
        for line, cells in table.rows:
            try:
                texts = texts_of(cells, columns, format.texts)
            except BadRow as bad:
                log(f"left out {path}:{line}: {bad}")
            else:
                id = None if number is None or cells[number] is None else str(cells[number]).strip()
                yield Input(id, texts)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from from_lines(file, format, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: convert the file to UTF-8") from error


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
    """Write the files of the CS224N project from one cell: one for each task and each of dev and test in the data.

    One row per example in the order of the data: the id in lower case, " , ", the prediction.

    Args:
        model: loads the cell's model; called only if the run did not make all the predictions.
        source: a data folder, `demo`, or "" for the data of the run.

    Raises:
        UserError: the cell was trained on none of the course's tasks, the data cannot be read, or a file cannot be
            written.
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
            values = _predictions(store, record, data[task][split], model, log)
            lines = [f"id \t {column} \n"]
            for name, value in zip(data[task][split].ids, values, strict=True):
                lines.append(f"{name.strip().lower()} , {kind(short(value))} \n")
            write_atomic(path, "".join(lines).encode())
            yield path


def _predictions(store: CellStore, record: Record, split: Split, model: Callable[[], Model], log: Log) -> list[float]:
    """The run's predictions if it made them for these rows; otherwise new ones."""
    if record.identity["data"][split.task].get(split.name) == split.digest():
        frame = store.predictions(record.key)
        mine = frame[(frame["task"] == split.task) & (frame["split"] == split.name)]
        values: list[float] = mine["prediction"].tolist()
        return values
    log(f"predicting {len(split):,} rows of {split.task} {split.name}, which the run did not")
    parts = [split.texts[at : at + CHUNK] for at in range(0, len(split), CHUNK)]
    return [each.value for part in parts for each in model().predict(split.task, part)]


Predicted = tuple[Input, Prediction]


def write(file: IO[str], predicted: Iterable[Predicted], format: InputFormat, kind: str) -> None:
    """Write predictions as a `table`, `csv` or `jsonl`, each as soon as it is made."""
    {"table": _table, "csv": _csv, "jsonl": _jsonl}[kind](file, predicted, format)


def write_file(path: Path, predicted: Iterable[Predicted], format: InputFormat, kind: str) -> None:
    """Like `write`, but to a file, which appears only when it is complete.

    Raises:
        UserError: the file cannot be written. Exceptions raised while predicting also pass through.
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


_WIDTH, _LEAST = 100, 30  # columns of a table, and of a text in it at the least


def _table(file: IO[str], predicted: Iterable[Predicted], format: InputFormat) -> None:
    """Numbers first; then the texts, cut to what the width leaves for them.

    Shows all probabilities, or only that of the predicted class if all would leave too little room for the texts.
    """
    classes, count = format.classes, len(format.texts)
    shares = classes or ("score",)

    def text_width() -> int:
        """What the numbers' columns leave for one text."""
        columns = [max(5, len(name)) for name in shares] + [max(map(len, ("prediction", *classes)))] * bool(classes)
        return (_WIDTH - sum(columns) - 2 * len(columns)) // count - 2

    if classes and text_width() < _LEAST:
        shares = ("probability",)
    width = max(_LEAST, text_width())
    rows = []
    for _, each in predicted:
        given = each.probabilities or {"score": each.value}
        numbers = [f"{given.get(name, max(given.values())):.3f}" for name in shares]
        rows.append([each.label] * bool(classes) + numbers + [_shortened(text, width) for text in each.texts])
    header = ["prediction"] * bool(classes) + [*shares, *format.texts]
    align = ["left"] * bool(classes) + ["right"] * len(shares) + ["left"] * count
    file.write(tabulate(rows, header, tablefmt="simple", disable_numparse=True, colalign=align) + "\n")


def _shortened(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
