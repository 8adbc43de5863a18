"""Answers as a table for people, CSV or JSON Lines, as they come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from benchkit.predict.answers import Answer, short
from benchkit.predict.model import Question
from benchkit.predict.read import Asked
from benchkit.store.atomic import write_atomic

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
