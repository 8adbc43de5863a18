"""Predictions for dev and test: those that the run stored where it made them of the same rows, else made now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchkit.data import Split, load_data
from benchkit.errors import UserError
from benchkit.plugins import Plugins
from benchkit.predict.answers import short
from benchkit.predict.cs224n import FORMS, SPLITS, file_name, write_predictions
from benchkit.predict.model import Model
from benchkit.record import Record
from benchkit.store.cells import CellStore

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
