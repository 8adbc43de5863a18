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
from benchkit.predict.model import Answer, Model, Question, short
from benchkit.store.cells import CellStore
from benchkit.store.files import write_atomic

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
        return [short(answer.value) for part in parts for answer in model.predict(task, part)]


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


FORMATS = ("table", "csv", "jsonl")
_WIDTH = 100
_LEAST = 30  # columns of a text

Answered = tuple[Asked, Answer]


def write(file: IO[str], answers: Iterable[Answered], question: Question, kind: str) -> None:
    """Write all answers in one of `FORMATS`, each as soon as it is there."""
    lines = {"table": _table, "csv": _csv, "jsonl": _jsonl}[kind]
    for line in lines(answers, question):
        file.write(line)


def write_file(path: Path, answers: Iterable[Answered], question: Question, kind: str) -> None:
    """The same into a file, which is there only when it is whole.

    Raises:
        UserError: it cannot be written; also whatever making the answers raises.
    """

    def fill(binary: BinaryIO) -> None:
        text = io.TextIOWrapper(binary, encoding="utf-8", newline="\n")
        write(text, answers, question, kind)
        text.flush()
        text.detach()

    write_atomic(path, fill)


def _jsonl(answers: Iterable[Answered], question: Question) -> Iterator[str]:
    for asked, answer in answers:
        named = {} if asked.id is None else {"id": asked.id}
        yield json.dumps({**named, **answer.to_dict(question.texts)}, ensure_ascii=False) + "\n"


class _Line:
    """A file that keeps what is written to it last."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text = text


def _csv(answers: Iterable[Answered], question: Question) -> Iterator[str]:
    line = _Line()
    writer = csv.writer(line, lineterminator="\n")
    for number, (asked, answer) in enumerate(answers):
        if not number:
            writer.writerow(["id"] * (asked.id is not None) + [*question.texts, *_columns(question)])
            yield line.text
        writer.writerow([asked.id or ""] * (asked.id is not None) + [*answer.texts, *_values(answer)])
        yield line.text


def _columns(question: Question) -> list[str]:
    """Of a table: the answer, then a probability a class."""
    return ["prediction", "label", *question.classes] if question.classes else ["score"]


def _values(answer: Answer) -> list[Any]:
    if answer.probabilities is None:
        return [short(answer.value)]
    return [answer.label, int(answer.value), *map(short, answer.probabilities.values())]


def _table(answers: Iterable[Answered], question: Question) -> Iterator[str]:
    """Numbers first; then the texts, cut to what the width leaves for them.

    All probabilities, or that of the answer alone where all would leave too little for the texts.
    """
    classes = question.classes
    shares = classes if _room(_widths(classes, classes), question) >= _LEAST else ("probability",)
    widths = _widths(classes, shares) if classes else [5]
    room = max(_LEAST, _room(widths, question))
    header = ["prediction", *shares] if classes else ["score"]
    yield _row(header, widths, question.texts, room) + "─" * _WIDTH + "\n"
    for _, answer in answers:
        yield _row(_numbers(answer, shares), widths, answer.texts, room)


def _widths(classes: Sequence[str], shares: Sequence[str]) -> list[int]:
    return [max(map(len, ("prediction", *classes))), *(max(5, len(name)) for name in shares)]


def _room(widths: Sequence[int], question: Question) -> int:
    """Columns for one text."""
    count = len(question.texts)
    return (_WIDTH - sum(widths) - 2 * len(widths) - 2 * (count - 1)) // count


def _numbers(answer: Answer, shares: Sequence[str]) -> list[str]:
    if answer.probabilities is None:
        return [f"{answer.value:.3f}"]
    shown = [answer.probabilities.get(name, max(answer.probabilities.values())) for name in shares]
    return [answer.label, *(f"{each:.3f}" for each in shown)]


def _row(cells: Sequence[str], widths: Sequence[int], texts: Sequence[str], room: int) -> str:
    first = cells[0].ljust(widths[0])
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    cut = [_cut(text, room).ljust(room) for text in texts]
    return "  ".join([first, *numbers, *cut]).rstrip() + "\n"


def _cut(text: str, room: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= room else flat[: room - 1] + "…"
