"""Which cell of a run to predict with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from benchkit.errors import UserError, unknown
from benchkit.record import Record
from benchkit.store.cells import CellStore

USABLE = ("ok", "collapsed")
_SHOWN = 4


def open_run(run: Path, log: Callable[[str], None]) -> CellStore:
    """The cells of a folder that `benchkit run --out` wrote.

    Raises:
        UserError: there are none.
    """
    store = CellStore(run / "cells", log=log)
    if not store.keys():
        inside = sorted(each.parent for each in run.glob("*/cells") if run.is_dir())
        hint = f"; did you mean {inside[0]}?" if inside else "; give the folder that benchkit run --out wrote"
        raise UserError(f"no finished cells in {run}{hint}")
    return store


def one(store: CellStore, head: str, seed: int | None, key: str) -> Record:
    """A cell by the beginning of its key; or of a head, by seed; without a seed the one that is best on dev.

    Raises:
        UserError: there is no such cell, it has no usable weights, or several kinds of the head are there.
    """
    if key:
        return _by_key(store, key)
    records = of_head(store, head)
    if seed is not None:
        found = [record for record in records if record.seed == seed]
        if not found:
            raise unknown("seed", str(seed), [str(record.seed) for record in records])
        return _usable(found[0])
    return max((record for record in records if record.status in USABLE), key=dev_mean)


def of_head(store: CellStore, head: str) -> list[Record]:
    """All cells of a head, by seed; at least one of them usable.

    Raises:
        UserError: no cell of the head, none that is usable, or cells that differ by more than their seeds.
    """
    keys = store.keys()
    records = [record for key in keys if (record := store.load(key))]
    if not head:
        raise UserError(f"name a head with --head: {', '.join(sorted({record.head for record in records}))}")
    found = sorted((each for each in records if each.head == head), key=lambda each: each.seed)
    if not found:
        raise unknown(f"head in {store.root.parent}", head, {record.head for record in records})
    kinds = {_kind(record): record.key for record in found}
    if len(kinds) > 1:
        such = ", ".join(list(kinds.values())[:_SHOWN]) + (", …" if len(kinds) > _SHOWN else "")
        raise UserError(
            f"{store.root.parent} holds cells of {head} that differ in settings, data or code: "
            f"name one with --cell KEY, such as {such}"
        )
    if not any(record.status in USABLE for record in found):
        _usable(found[0])
    return found


def dev_mean(record: Record) -> float:
    """What a cell's checkpoint was chosen by: the mean of the dev metrics of its last phase."""
    values = [score.value for score in record.phases[-1].scores if score.split == "dev"]
    return sum(values) / len(values)


def _by_key(store: CellStore, key: str) -> Record:
    known = store.keys()
    keys = [each for each in known if each.startswith(key)]
    if len(keys) > 1:
        raise UserError(f"--cell {key} is the beginning of {len(keys)} keys: {', '.join(keys[:_SHOWN])}")
    record = store.load(keys[0]) if keys else None
    if record is None:
        raise unknown("cell", key, known)
    return _usable(record)


def _usable(record: Record) -> Record:
    if record.status not in USABLE:
        raise UserError(
            f"cell {record.key} ({record.head} seed {record.seed}) {record.status}, so it has no weights to predict "
            f"with: {record.error}"
        )
    return record


def _kind(record: Record) -> str:
    """All of a cell's identity but the seed."""
    return json.dumps({**record.identity, "seed": None}, sort_keys=True)
