"""Heads that were trained in vain beside a run (`benchkit run --controls`), read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from benchkit.runner.beside import CONTROLS, RANDOM_ENCODER, SHUFFLED_LABELS, folder_of
from benchkit.store.cells import CellStore

if TYPE_CHECKING:
    from benchkit.record import Record

# What a control shares with its cell: all but data, encoder and the version of the code.
_SAME = ("head", "protocol", "tasks", "seed", "execution")


def read_vain(runs: Iterable[Path], records: Iterable[Record], log: Callable[[str], None]) -> dict[str, list[Record]]:
    """Records under `controls/` of these runs, by what was done: those of the cells that were run in earnest too.

    They go by the name that the cell run in earnest has in tables; of two with one name and seed, the first counts.
    """
    wanted = {likeness(record.identity, _SAME): record.head for record in records}
    found: dict[str, dict[tuple[str, int], Record]] = {}
    for name, run in product((SHUFFLED_LABELS, RANDOM_ENCODER), list(runs)):
        store = CellStore(run / CONTROLS / folder_of(name) / "cells", log)
        for record in filter(None, map(store.load, store.keys())):
            head = wanted.get(likeness(record.identity, _SAME))
            if head is not None:
                found.setdefault(name, {}).setdefault((head, record.seed), replace(record, head=head))
    order = list(dict.fromkeys(wanted.values()))
    return {
        name: sorted(each.values(), key=lambda record: (order.index(record.head), record.seed))
        for name, each in found.items()
    }


def likeness(identity: Mapping[str, object], parts: Iterable[str]) -> str:
    """These parts of what a cell was run with, to find another that shares them."""
    return json.dumps([identity.get(part) for part in parts], sort_keys=True)
