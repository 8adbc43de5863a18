"""The data that stored cells were trained on, found again and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from benchkit.controls import Control, controls
from benchkit.data import Split, load_data, subsample
from benchkit.errors import UserError

if TYPE_CHECKING:
    from benchkit.record import Record
    from benchkit.task import TaskSpec


class Origin:
    """Splits of the tasks of some records; `log` gets one line for each task that is not found as it was."""

    def __init__(self, records: Sequence[Record], tasks: Mapping[str, TaskSpec], log: Callable[[str], None]) -> None:
        self._records, self._tasks, self._log = records, tasks, log
        self._loaded: dict[str, Mapping[str, Split]] = {}

    def split(self, task: str, split: str) -> Split | None:
        """A split with the rows that the cells saw; None if it is not found again."""
        return self._splits(task).get(split)

    def controls(self) -> tuple[Control, ...]:
        """Constant predictions, learnt on train, of the tasks that are found again."""
        rows: list[Control] = []
        for name, task in self._tasks.items():
            splits = self._splits(name)
            if "train" in splits:
                rows += controls(task, splits)
        return tuple(rows)

    def _splits(self, task: str) -> Mapping[str, Split]:
        if task not in self._loaded:
            try:
                self._loaded[task] = self._load(task)
            except (UserError, OSError) as error:
                self._loaded[task] = {}
                self._log(f"no texts and controls of {task}: {error}")
        return self._loaded[task]

    def _load(self, name: str) -> dict[str, Split]:
        """The splits whose content is the recorded one.

        Raises:
            UserError: data missing, or other data than the cells'.
        """
        record = self._record(name)
        expected = record.identity["data"][name]
        seed = int(record.identity["protocol"].get("subsample_seed", 0))
        stratified = self._tasks[name].kind == "classification"
        found = load_data(record.data["name"], [self._tasks[name]])[name]
        kept = {}
        for split, data in found.items():
            part = subsample(data, record.data["splits"][name].get(split, {}).get("rows", 0), seed, stratified)
            if part.digest() == expected.get(split):
                kept[split] = part
        changed = [split for split in expected if split not in kept]
        if changed:
            raise UserError(f"{record.data['name']} has changed since the run ({', '.join(changed)})")
        return kept

    def _record(self, task: str) -> Record:
        """One that says where its data was; cells that failed early do not."""
        for record in self._records:
            if task in record.data.get("splits", {}):
                return record
        raise UserError("no cell got as far as to say where its data was")
