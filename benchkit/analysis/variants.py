"""One head with several settings: which cells belong together, and how a table names them apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.core.errors import UserError

if TYPE_CHECKING:
    from benchkit.core.record import Record


Setting = Mapping[str, str]
"""What a cell was run with, its seed apart: `protocol.pretrain.epochs` -> `10`."""


@dataclass(frozen=True)
class Found:
    """A cell that was read: its run, its own folder, and the name that its head goes by."""

    record: Record
    run: Path
    folder: Path
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.record.head


def check_comparable(found: Sequence[Found]) -> None:
    """Numbers stand side by side only if they were scored by one metric on the same examples.

    Raises:
        UserError: names the two runs, the task and the split.
    """
    seen: dict[tuple[str, str], tuple[Found, str]] = {}
    for each in found:
        for (task, what), value in _yardstick(each.record).items():
            first, expected = seen.setdefault((task, what), (each, value))
            if value != expected:
                where = f"{first.run} and {each.run}" if first.run != each.run else f"cells in {each.run}"
                raise UserError(
                    f"{where} differ in {what} of {task} ({expected[:8]} and {value[:8]}), so their numbers cannot "
                    "stand in one table; report them one at a time"
                )


def _yardstick(record: Record) -> dict[tuple[str, str], str]:
    metrics = {(task["name"], "the metric"): str(task["metric"]) for task in record.identity["tasks"]}
    data = record.identity["data"]
    digests = {
        (task, f"the {split} data"): digest
        for task, splits in data.items()
        for split, digest in splits.items()
        if split != "train"
    }
    return {**metrics, **digests}


def tell_apart(found: Sequence[Found], log: Callable[[str], None]) -> tuple[list[Found], list[str]]:
    """Name heads apart that were run with several settings; cells that are there twice count once.

    Returns:
        The cells, and a line for each head with several settings on what these differ in.
    """
    found = list({each.record.key: each for each in reversed(found)}.values())[::-1]
    found = _newest(found, log)
    notes: dict[str, list[str]] = {}
    named = []
    for head in dict.fromkeys(each.record.head for each in found):
        cells = [each for each in found if each.record.head == head]
        names, differing = _names(cells)
        named += [replace(each, name=names[_key(each)]) for each in cells]
        if differing:
            notes.setdefault(differing, []).append(", ".join(dict.fromkeys(names.values())))
    named.sort(key=lambda each: list(dict.fromkeys(other.run for other in found)).index(each.run))
    order = list(dict.fromkeys(each.label for each in named))
    named.sort(key=lambda each: (order.index(each.label), each.record.seed))
    return named, [f"{'; '.join(heads)} differ in {what}." for what, heads in notes.items()]


def _newest(found: list[Found], log: Callable[[str], None]) -> list[Found]:
    """Without the cells that a run in the same folder has made anew with newer code or libraries."""
    newest: dict[tuple[Path, str], tuple[float, str]] = {}
    for each in found:
        where, age = (each.run, _key(each, engine=False)), (each.folder / "record.json").stat().st_mtime
        newest[where] = max(newest.get(where, (0.0, "")), (age, _key(each)))
    kept = [each for each in found if newest[each.run, _key(each, engine=False)][1] == _key(each)]
    dropped = len(found) - len(kept)
    if dropped:
        log(f"left out {dropped} of {len(found)} cells: the same was run again with another version of the code")
    return kept


def _names(cells: Sequence[Found]) -> tuple[dict[str, str], str]:
    """The name of each setting of one head, by its key, and what they differ in."""
    settings = {_key(each): _setting(each.record) for each in cells}
    head = cells[0].record.head
    if len(settings) == 1:
        return dict.fromkeys(settings, head), ""
    runs = {key: tuple(dict.fromkeys(each.run for each in cells if _key(each) == key)) for key in settings}
    names = _by_run(head, runs, settings)
    if names is None:
        names = {key: f"{head} ({fields})" for key, fields in _by_fields(settings).items()}
    return names, ", ".join(f"{_short(name)} ({_listed(each.values())})" for name, each in _differing(settings).items())


def _by_run(head: str, runs: Mapping[str, tuple[Path, ...]], settings: Mapping[str, Setting]) -> dict[str, str] | None:
    """`cnn @ paper`, with the fields that differ in one run behind it; None where runs overlap or are one."""
    folders = {run for each in runs.values() for run in each}
    together = {each: [key for key in runs if runs[key] == each] for each in runs.values()}
    if len(together) == 1 or len(folders) != sum(map(len, together)):
        return None
    short = _short_paths(sorted(folders))
    names = {}
    for each, keys in together.items():
        fields = _by_fields({key: settings[key] for key in keys}) if len(keys) > 1 else {}
        for key in keys:
            names[key] = f"{head} @ {'+'.join(short[run] for run in each)}" + (f" ({fields[key]})" if fields else "")
    return names


def _by_fields(settings: Mapping[str, Setting]) -> dict[str, str]:
    """`dropout=0.1` for each of some settings: what sets it apart from the others."""
    differing = _differing(settings)
    return {
        key: ", ".join(f"{_short(name)}={values[key][:12]}" for name, values in differing.items()) for key in settings
    }


def _differing(settings: Mapping[str, Setting]) -> dict[str, dict[str, str]]:
    """Fields that are not the same in all: their values, by setting."""
    names = sorted({name for each in settings.values() for name in each})
    values = {name: {key: each.get(name, "–") for key, each in settings.items()} for name in names}
    return {name: each for name, each in values.items() if len(set(each.values())) > 1}


def _listed(values: Any) -> str:
    return " / ".join(value[:12] for value in dict.fromkeys(values))


def _short(field: str) -> str:
    """A field as `--set` has it, as far as it has one."""
    return field.removeprefix("head.config.").removeprefix("protocol.")


def _short_paths(paths: Sequence[Path]) -> dict[Path, str]:
    """Each path by as many of its last parts as it takes to tell them apart."""
    whole = {path: path.resolve().parts for path in paths}
    for count in range(1, max(map(len, whole.values())) + 1):
        short = {path: "/".join(parts[-count:]) for path, parts in whole.items()}
        if len(set(short.values())) == len(set(whole.values())):
            return short
    return {path: str(path) for path in paths}


def _key(each: Found, *, engine: bool = True) -> str:
    return json.dumps(_setting(each.record, engine=engine), sort_keys=True)


def _setting(record: Record, *, engine: bool = True) -> Setting:
    parts = {name: part for name, part in record.identity.items() if name not in ("seed", *["engine"] * (not engine))}
    parts["tasks"] = {task["name"]: task for task in record.identity["tasks"]}
    parts["order of tasks"] = [task["name"] for task in record.identity["tasks"]]
    flat = dict(_flatten(parts))
    if not engine:  # its sources are code as well
        flat = {name: value for name, value in flat.items() if not name.endswith(".source")}
    return flat


def _flatten(part: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in part.items():
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)))
    return rows
