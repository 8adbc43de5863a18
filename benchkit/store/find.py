"""From what a user writes for a cell to its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchkit.errors import UserError
from benchkit.record import Record
from benchkit.store.cells import CellStore

RUNS = Path("results/runs")
"""Where `benchkit run` writes by default."""
_SHOWN = 6


def find_cell(text: str, out: Path | None = None) -> Path:
    """A cell's folder: given as such, or the beginning of a key under `out`, or else under all of `RUNS`.

    Raises:
        UserError: there is no such cell, there are several, or it has no record yet.
    """
    if not text.strip():
        raise UserError("a cell's name is empty: give its folder, or the beginning of its key")
    path = Path(text).expanduser()
    if path.name == "record.json":
        path = path.parent
    if path.is_dir():
        return _checked(path)
    root = out or RUNS
    if out is not None and not out.is_dir():
        raise UserError(f"no folder {out}: --out takes the folder of a run")
    folders = [each for each in sorted(root.glob("**/cells/*")) if each.name.startswith(text) and each.is_dir()]
    if not folders:
        raise UserError(f"no cell {text!r} in {root}: give a cell's folder, or the beginning of its key and --out DIR")
    if len(folders) > 1:
        raise UserError(
            f"{text!r} may be {_listed([str(each) for each in folders])}: give more of its key, or a folder"
        )
    return _checked(folders[0])


def open_record(folder: Path, log: Callable[[str], None]) -> Record:
    """The record of a cell's folder.

    Raises:
        UserError: it is damaged, or of a schema that this benchkit does not read; `log` is told which.
    """
    record = CellStore(folder.parent, log=log).load(folder.name)
    if record is None:
        raise UserError(f"the record in {folder} cannot be used; run the cell again")
    return record


def _checked(folder: Path) -> Path:
    folder = folder.resolve()
    if (folder / "record.json").is_file():
        return folder
    if (folder / "cells").is_dir():
        keys = [each.parent.name for each in sorted(folder.glob("cells/*/record.json"))]
        raise UserError(f"{folder} is the folder of a run; name one of its cells: {_listed(keys) or 'it has none'}")
    if any((folder / name).exists() for name in ("checkpoint.pt", "lock")):
        raise UserError(f"the cell in {folder} has no record yet: it runs, or it was stopped; the same run goes on")
    raise UserError(f"{folder} is no cell: it has no record.json")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
