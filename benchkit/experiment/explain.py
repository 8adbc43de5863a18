"""What a stored cell's identity would be if it were run again now, with what is installed and on disk here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from benchkit.core.errors import UserError
from benchkit.core.head import HeadSpec
from benchkit.core.protocol import Protocol
from benchkit.core.record import Parts, Record, parts_of
from benchkit.core.task import SPLITS, TaskSpec
from benchkit.experiment.cell import data_part, engine_part, head_part, sources_of, tasks_part
from benchkit.experiment.run_cell import splits_of
from benchkit.experiment.workspace import Data, Workspace

_T = TypeVar("_T")


def today(record: Record, workspace: Workspace) -> tuple[Parts, list[str]]:
    """The identity that a record's request would have now: its head, tasks, data, encoder and engine as they are.

    Also the parts that could not be looked at, and why, a line each; these are as stored.
    """
    look, stored = _Look(record, workspace), record.identity
    parts: dict[str, Callable[[], Any]] = {
        "head": lambda: head_part(*look.head()),
        "protocol": lambda: look.protocol().identity(),
        "tasks": lambda: tasks_part(*look.head(), look.tasks(), look.protocol()),
        "data": lambda: data_part(look.tasks(), look.data()),
        "encoder": lambda: workspace.encoder(record.encoder["name"]).fingerprint,
        "engine": engine_part,
    }
    identity = {
        name: look.or_stored(name, parts[name], each) if name in parts else each for name, each in stored.items()
    }
    was = parts_of(record)
    nothing: dict[str, Any] = {}
    sources = look.or_stored("", lambda: sources_of(*look.head(), look.tasks(), look.protocol()), nothing)
    data = look.or_stored("", lambda: splits_of(look.data()), nothing)
    now = parts_of(replace(record, identity=identity, sources=sources, data={"splits": data}))
    return replace(now, splits=now.splits or was.splits), look.reasons()


@dataclass
class _Look:
    """Finds again what a record was made from; remembers what it did not find."""

    record: Record
    workspace: Workspace
    missed: dict[str, list[str]] = field(default_factory=dict)

    def head(self) -> tuple[HeadSpec, Any]:
        part = self.record.identity["head"]
        spec = self.workspace.plugins.head(part["name"])
        return spec, spec.configure(part["config"])

    def protocol(self) -> Protocol:
        """The stored protocol, with the stored sizes: a subset of rows that are all there is, is all of them."""
        splits = self.record.data["splits"]
        rows = {task: {name: each[name]["rows"] for name in SPLITS if name in each} for task, each in splits.items()}
        return Protocol.from_identity(self.record.identity, rows)

    def tasks(self) -> list[TaskSpec]:
        return self.workspace.tasks(self.protocol())

    def data(self) -> Data:
        return self.workspace.data(self.record.data["name"], self.protocol())

    def or_stored(self, part: str, make: Callable[[], _T], stored: _T) -> _T:
        """What a part is now, or was, where that cannot be found out; a part of no name misses silently."""
        try:
            return make()
        except UserError as error:
            reason = str(error)
        except (KeyError, TypeError, ValueError):
            reason = "its record is of another version, or of a cell that failed, and says too little"
        if part:
            self.missed.setdefault(reason, []).append(part)
        return stored

    def reasons(self) -> list[str]:
        return [f"{', '.join(parts)}: {reason}" for reason, parts in self.missed.items()]
