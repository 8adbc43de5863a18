"""Finished cells read back from disk, as a report needs them. Nothing is trained or encoded."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchkit.errors import UserError
from benchkit.report.origin import Origin
from benchkit.report.results import Results, collect
from benchkit.report.variants import Found, check_comparable, tell_apart
from benchkit.store.cells import CellStore

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.controls import Control
    from benchkit.record import Record
    from benchkit.task import TaskSpec

Log = Callable[[str], None]


@dataclass(frozen=True)
class Stored:
    """The cells of one or more runs.

    Attributes:
        records: in the order of the heads, then of seeds. `head` is the name that tables show: where one head was run
            with several settings it tells them apart, as in `cnn @ paper`.
        folders: of each cell, by its key.
        heads: the head's own name, by the name that tables show.
        tasks: by name, in the order they were trained in.
        notes: what differs between heads of one name, a line each.
    """

    records: tuple[Record, ...]
    folders: Mapping[str, Path]
    heads: Mapping[str, str]
    tasks: Mapping[str, TaskSpec]
    notes: tuple[str, ...]
    log: Log

    @cached_property
    def results(self) -> Results:
        """All numbers, arranged for tables."""
        return collect(self.records, self.controls, self.tasks)

    @cached_property
    def controls(self) -> tuple[Control, ...]:
        """Constant predictions, learnt on train; none, with a logged line, for a task whose data is not found again."""
        return self._origin.controls()

    def phase_of_predictions(self, record: Record) -> str:
        """The phase whose predictions a cell keeps, its last; "" where it has none."""
        return record.phases[-1].name if record.phases and record.status != "failed" else ""

    def predictions(self, record: Record, phase: str, task: str, split: str) -> pd.DataFrame:
        """What a cell predicted for each example of a split.

        Returns:
            Indexed by the example's id, in the order of the data: `label` (NaN where there is none), `prediction` (a
            class index, or a score in the label range) and `score` (the probability of the predicted class; of a
            regression the prediction). Logits are not kept. Empty where the task has no such split.

        Raises:
            UserError: it is not the cell's last phase, or the file cannot be read.
        """
        if phase != self.phase_of_predictions(record):
            kept = self.phase_of_predictions(record) or "no phase"
            raise UserError(f"{self.folders[record.key]} keeps the predictions of {kept}, not of {phase}")
        frame = _read_predictions(self.folders[record.key], record.predictions_sha256)
        rows = frame[(frame["task"] == task) & (frame["split"] == split)]
        return rows.set_index("id")[["label", "prediction", "score"]]

    def texts(self, task: str, split: str) -> Mapping[str, tuple[str, ...]] | None:
        """The texts of a split's examples, one or two each, by the example's id.

        None, with a logged line, where the data is not found again, or is not what the cells were trained on.
        """
        found = self._origin.split(task, split)
        return None if found is None else dict(zip(found.ids, found.texts, strict=True))

    @cached_property
    def _origin(self) -> Origin:
        return Origin(self.records, self.tasks, self.log)


def read_runs(folders: Sequence[Path], *, log: Log, head_files: Iterable[Path] = ()) -> Stored:
    """Read the finished cells of runs, each a folder that `benchkit run` wrote.

    One head with several settings becomes several heads, named apart. Of cells that differ in nothing but the version
    of benchkit or torch, in one folder, the newest version's count.

    Args:
        log: takes a line for each cell or thing that had to be left out.
        head_files: Python files with tasks that are not installed.

    Raises:
        UserError: a folder is missing or holds no usable cell; a task is not installed; the runs were scored on
            different examples, so that their numbers cannot be put side by side.
    """
    from benchkit.plugins import load_plugins

    found = [each for folder in dict.fromkeys(folders) for each in _read_run(folder, log)]
    check_comparable(found)
    found, notes = tell_apart(found, log)
    plugins = load_plugins(head_files)
    names = dict.fromkeys(task["name"] for each in found for task in each.record.identity["tasks"])
    try:
        tasks = {name: plugins.task(name) for name in names}
    except UserError as error:
        raise UserError(f"{error}; give the file it is in with --head-file") from error
    return Stored(
        records=tuple(replace(each.record, head=each.label) for each in found),
        folders={each.record.key: each.folder for each in found},
        heads={each.label: each.record.head for each in found},
        tasks=tasks,
        notes=tuple(notes),
        log=log,
    )


def _read_run(folder: Path, log: Log) -> list[Found]:
    """The usable cells of one run: heads as its own table has them, then seeds."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: name one that benchkit run wrote, with a folder `cells` in it")
    store = CellStore(folder / "cells" if (folder / "cells").is_dir() else folder, log)
    keys = store.keys()
    if not keys:
        raise UserError(f"{folder} has no finished cell: name a folder that benchkit run wrote (its --out)")
    records = [record for key in keys if (record := _load(store, key, log)) is not None]
    if not records:
        raise UserError(f"none of the {len(keys)} cells in {folder} is usable (the lines above say why); run it again")
    unfinished = sum(each.is_dir() for each in store.root.iterdir()) - len(keys)
    if unfinished > 0:
        log(f"{folder}: {unfinished} more cells were started and not finished; the same benchkit run goes on with them")
    order = {head: place for place, head in enumerate(_heads_of_table(folder))}
    records.sort(key=lambda record: (order.get(record.head, len(order)), record.head, record.seed))
    return [Found(record, folder, store.root / record.key) for record in records]


def _load(store: CellStore, key: str, log: Log) -> Record | None:
    record = store.load(key)
    if record is not None and not {"head", "protocol", "tasks", "data"} <= set(record.identity):
        log(f"cell {store.root / key} does not say what it was run with, so it is left out")
        return None
    return record


def _heads_of_table(folder: Path) -> Iterator[str]:
    """The heads in the order in which they were asked for, as far as the run got to writing its table."""
    try:
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row.get("head") or "", row.get("phase")) for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):
        return
    yield from dict.fromkeys(head for head, phase in rows if phase)


@lru_cache(maxsize=2)
def _read_predictions(folder: Path, _: str) -> pd.DataFrame:
    """All predictions of a cell; callers ask task by task."""
    return CellStore(folder.parent).predictions(folder.name)
