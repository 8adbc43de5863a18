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


CHUNK = 4096


@dataclass
class Submission:
    """Writes the course's files from one cell.

    Attributes:
        model: opens the cell; called only if something must be predicted that the run did not.
    """

    store: CellStore
    record: Record
    plugins: Plugins
    model: Callable[[], Model]
    log: Callable[[str], None]

    def write(self, source: str, folder: Path) -> list[Path]:
        """A file a task and split that the data have.

        Args:
            source: a data folder, `demo`, or "" for that of the run.

        Raises:
            UserError: the cell was trained on no task of the course, or the data cannot be read.
        """
        trained = [each["name"] for each in self.record.identity["tasks"]]
        names = [name for name in trained if name in FORMS]
        if not names:
            raise UserError(f"the course's tasks are {', '.join(FORMS)}; this cell was trained on {', '.join(trained)}")
        tasks = [self.plugins.task(name) for name in names]
        data = load_data(source or self.record.data["name"], tasks)
        for name in FORMS:
            if name not in names:
                self.log(f"{FORMS[name].name}-*-output.csv are not written: the cell was not trained on {name}")
        return list(self._files(data, folder))

    def _files(self, data: Mapping[str, Mapping[str, Split]], folder: Path) -> Iterator[Path]:
        for name, splits in data.items():
            for each in SPLITS:
                if each not in splits:
                    self.log(f"{file_name(name, each)} is not written: the data have no {each} split of {name}")
                    continue
                values = self._values(name, splits[each])
                yield write_predictions(folder, name, each, splits[each].ids, values)

    def _values(self, task: str, split: Split) -> list[float]:
        if self.record.identity["data"][task].get(split.name) == split.digest():
            frame = self.store.predictions(self.record.key)
            rows = frame[(frame["task"] == task) & (frame["split"] == split.name)]
            return [short(value) for value in rows["prediction"].tolist()]
        self.log(f"predicting {len(split):,} rows of {task} {split.name}, which the run did not")
        model = self.model()
        parts = [list(split.texts[at : at + CHUNK]) for at in range(0, len(split), CHUNK)]
        return [short(each.value) for part in parts for each in model.predict(task, part)]


SPLITS = ("dev", "test")


@dataclass(frozen=True)
class Form:
    """One task's files.

    Attributes:
        name: file names begin with it.
        column: in the header, the course's misspelling of "similarity" included.
        whole: whether predictions are written as 3, not as 1.0 or 2.718.
    """

    name: str
    column: str
    whole: bool = False


# A class of a paraphrase is a float there, since it is the rounded sigmoid of one logit.
FORMS: Mapping[str, Form] = {
    "sst": Form("sst", "Predicted_Sentiment", whole=True),
    "quora": Form("para", "Predicted_Is_Paraphrase"),
    "sts": Form("sts", "Predicted_Similiary"),
}


def file_name(task: str, split: str) -> str:
    return f"{FORMS[task].name}-{split}-output.csv"


def write_predictions(folder: Path, task: str, split: str, ids: Sequence[str], predictions: Sequence[float]) -> Path:
    """One file: a row an example in the order of the data, ids in lower case, " , " between id and prediction.

    Args:
        predictions: class indices or scores.

    Raises:
        UserError: the file cannot be written, or the course has no such task.
    """
    if task not in FORMS:
        raise UserError(f"the course has no task {task!r}, only {', '.join(FORMS)}")
    path = folder / file_name(task, split)
    write_atomic(path, "".join(_lines(FORMS[task], ids, predictions)).encode())
    return path


def _lines(form: Form, ids: Sequence[str], predictions: Sequence[float]) -> Iterator[str]:
    yield f"id \t {form.column} \n"
    for name, value in zip(ids, predictions, strict=True):
        yield f"{name.strip().lower()} , {int(value) if form.whole else float(value)} \n"


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
        values = [short(each.value)]
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
