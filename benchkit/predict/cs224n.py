"""The files that the CS224N default project asks for, as its `test_multitask` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchkit.errors import UserError
from benchkit.store.atomic import write_atomic

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
