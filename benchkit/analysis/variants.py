"""Which cells stand in one table, and the names of one head's variants: runs of it with other settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchkit.core.errors import UserError
from benchkit.core.identity import changes, shown

if TYPE_CHECKING:
    from benchkit.core.record import Record

Identity = Mapping[str, Any]


class FoundCell(NamedTuple):
    """A cell that was read, with the folder of its run and its own."""

    record: Record
    run: Path
    folder: Path


def protocol_fields(identity: Identity) -> dict[str, Any]:
    """A recorded protocol with the names of its phases under `phases` and the settings of each under its name.

    Newer records hold a list of tables under `phases`, older ones a list of names.
    """
    protocol = dict(identity.get("protocol", {}))
    tables = [each for each in protocol.get("phases", ()) if isinstance(each, Mapping)]
    if tables:
        protocol["phases"] = [each["name"] for each in tables]
        protocol |= {each["name"]: {key: value for key, value in each.items() if key != "name"} for each in tables}
    return protocol


def check_comparable(cells: Sequence[FoundCell]) -> None:
    """Numbers stand side by side only if they were scored by one metric on the same examples.

    Raises:
        UserError: names the two runs, the task and the split.
    """
    seen: dict[tuple[str, str], tuple[Path, str]] = {}
    for each in cells:
        identity = each.record.identity
        scoring = {(task["name"], "the metric"): str(task["metric"]) for task in identity["tasks"]}
        for task, splits in identity["data"].items():
            scoring |= {(task, f"the {split} data"): value for split, value in splits.items() if split != "train"}
        for (task, what), value in scoring.items():
            first, expected = seen.setdefault((task, what), (each.run, value))
            if value != expected:
                where = f"{first} and {each.run}" if first != each.run else f"cells in {each.run}"
                raise UserError(
                    f"{where} differ in {what} of {task} ({expected[:8]} and {value[:8]}), so their numbers cannot "
                    "stand in one table; report them one at a time"
                )


def newest(cells: Sequence[FoundCell], log: Callable[[str], None]) -> list[FoundCell]:
    """Each cell once, without those that were rerun in the same folder with newer code or libraries."""
    cells = list({each.record.key: each for each in reversed(cells)}.values())[::-1]
    latest: dict[tuple[Path, str], tuple[float, str]] = {}
    for each in cells:
        where, age = (each.run, _setting(each.record, code=False)), (each.folder / "record.json").stat().st_mtime
        latest[where] = max(latest.get(where, (0.0, "")), (age, _setting(each.record)))
    kept = [each for each in cells if latest[each.run, _setting(each.record, code=False)][1] == _setting(each.record)]
    if len(kept) < len(cells):
        log(f"left out {len(cells) - len(kept)} of {len(cells)} cells: the same was run again with another version of "
            "the code")  # fmt: skip
    return kept


def _setting(record: Record, *, code: bool = True) -> str:
    """What a cell was run with, except its seed, as a key; `code`: with the versions of the sources and libraries."""
    left_out = {"seed"} if code else {"seed", "engine"}
    parts = {name: part for name, part in record.identity.items() if name not in left_out}
    text = json.dumps({**parts, "protocol": protocol_fields(record.identity)}, sort_keys=True)
    if code:
        return text
    return json.dumps(json.loads(text, object_hook=lambda part: {k: v for k, v in part.items() if k != "source"}))


def name_variants(cells: Sequence[FoundCell]) -> tuple[dict[str, str], list[str]]:
    """Give each setting of one head a name of its own.

    Returns:
        The name by the cell's key, and a line for each head with several settings on what these differ in.
    """
    names: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    for head in dict.fromkeys(each.record.head for each in cells):
        settings: dict[str, list[FoundCell]] = {}
        for each in cells:
            if each.record.head == head:
                settings.setdefault(_setting(each.record), []).append(each)
        variants = _names(head, settings)
        names |= {each.record.key: variants[setting] for setting, found in settings.items() for each in found}
        if len(settings) > 1:
            differing = _differing({key: found[0].record.identity for key, found in settings.items()})
            what = ", ".join(f"{name} ({' / '.join(dict.fromkeys(each.values()))})" for name, each in differing.items())
            notes.setdefault(what, []).append(", ".join(variants.values()))
    return names, [f"{'; '.join(heads)} differ in {what}." for what, heads in notes.items()]


def _names(head: str, settings: Mapping[str, Sequence[FoundCell]]) -> dict[str, str]:
    """The name of each setting: `cnn`; `cnn @ paper`, where no two runs share a setting; `cnn (dropout=0.1)`, where
    one run has several.
    """
    if len(settings) == 1:
        return dict.fromkeys(settings, head)
    together: dict[tuple[Path, ...], list[str]] = {}
    for key, found in settings.items():
        together.setdefault(tuple(dict.fromkeys(each.run for each in found)), []).append(key)
    runs = [run for each in together for run in each]
    by_run = len(together) > 1 and len(set(runs)) == len(runs)
    short, names = _short_paths(sorted(runs)), {}
    for where, keys in together.items() if by_run else [((), list(settings))]:
        name = f"{head} @ {'+'.join(short[run] for run in where)}" if by_run else head
        differing = _differing({key: settings[key][0].record.identity for key in keys})
        for key in keys:
            fields = ", ".join(f"{field}={values[key]}" for field, values in differing.items())
            names[key] = f"{name} ({fields})" if fields else name
    return names


def _differing(identities: Mapping[str, Identity]) -> dict[str, dict[str, str]]:
    """Fields, as `--set` has them, that are not the same in all: their values, cut short, by setting."""
    first, found = next(iter(identities.values())), dict[str, dict[str, str]]()
    for key, identity in identities.items():
        for change in changes({**first, "seed": 0}, {**identity, "seed": 0}):
            field = change.field.removeprefix("head.config.").removeprefix("protocol.")
            values = found.setdefault(field, dict.fromkeys(identities, shown(change.a)[:12]))
            values[key] = shown(change.b)[:12]
    return dict(sorted(found.items()))


def _short_paths(paths: Sequence[Path]) -> dict[Path, str]:
    """Each path by as many of its last parts as make it unique."""
    whole = {path: path.resolve().parts for path in paths}
    for count in range(1, max(map(len, whole.values())) + 1):
        short = {path: "/".join(parts[-count:]) for path, parts in whole.items()}
        if len(set(short.values())) == len(set(whole.values())):
            return short
    return {path: str(path) for path in paths}
