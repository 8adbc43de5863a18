"""`benchkit explain`: what a cell's key is made of, and why a run reuses it or not."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.core.identity import Parts, changes, nearest, parts_of, shown, tell

if TYPE_CHECKING:
    from benchkit.core.record import Record


@click.command(short_help="Say what a cell's key is made of, and why it is reused or run again.")
@click.argument("cell", metavar="CELL")
@click.argument("other", metavar="CELL", required=False)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="The run that a key belongs to; default: all of results/runs.")  # fmt: skip
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="The file that the cell's head came from; repeatable.")  # fmt: skip
def explain(cell: str, other: str | None, out: Path | None, head_files: tuple[Path, ...]) -> None:
    """Show what a cell's key is made of, and what differs: from another cell, or from a rerun.

    \b
    benchkit explain 1d59892e
    benchkit explain 1d59892e 8d215a44 --out results/runs/demo-embedded

    A CELL is its folder, or the beginning of its key. A single one is compared with what the same request would be
    now: its head, data, encoder and benchkit's own code are looked at again. For a run that is not stored yet,
    `benchkit run … --dry-run` says in what each of its cells differs from the nearest one stored.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.store.cells import find_cell, open_record

    folders = [find_cell(name, out) for name in (cell, other) if name is not None]
    records = [open_record(folder, _log) for folder in folders]
    if other is None:
        _one(records[0], folders[0], head_files)
    else:
        _pair(records[0], records[1], folders)


def _one(record: Record, folder: Path, head_files: tuple[Path, ...]) -> None:
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.explain import today
    from benchkit.experiment.workspace import Workspace
    from benchkit.store.files import cache_root

    click.echo(_headline(record))
    click.echo(f"in {folder}\n")
    for line in _key_parts(record):
        click.echo(line)
    click.echo()
    now = today(record, Workspace(load_plugins(head_files), cache_root(), _log))
    found = _differences(parts_of(record), now.parts)
    _say(_verdict(record, bool(found), bool(now.unknown)), found)
    _say("Not looked at:", now.unknown)
    _neighbour(record, folder)


def _verdict(record: Record, changed: bool, unknown: bool) -> str:
    if changed:
        return "A rerun of the same request would train it again, since this changed:"
    if record.status == "failed":
        return "Nothing in the key changed; the same request would try it again, since it failed."
    if unknown:
        return "Nothing in the key changed as far as can be seen; if so, the same request reuses it."
    return "Nothing in the key changed: the same request reuses it."


def _neighbour(record: Record, folder: Path) -> None:
    """In what the cell differs from the nearest one of the same head and seed in the same run."""
    from benchkit.store.cells import CellStore

    store = CellStore(folder.parent, log=_log)
    others = [found for key in store.keys() if key != record.key and (found := store.load(key))]  # noqa: SIM118
    near = nearest(parts_of(record), others)
    if near is not None:
        title = f"Nearest cell of the same head and seed in this run, {near.key}, differs in:"
        _say(title, _differences(parts_of(record), parts_of(near)))


def _pair(a: Record, b: Record, folders: list[Path]) -> None:
    for record, folder in zip((a, b), folders, strict=True):
        click.echo(_headline(record))
        click.echo(f"in {folder}")
    click.echo()
    found = _differences(parts_of(a), parts_of(b))
    if found:
        _say("The second has a key of its own, since it differs from the first in:", found)
    elif folders[0] == folders[1]:
        click.echo("This is one and the same cell.")
    else:
        click.echo("The two have one key: a run would reuse either for the other.")
    _say("In no key, but different too:", _environment_differences(a, b))


def _say(title: str, lines: list[str] | tuple[str, ...]) -> None:
    if not lines and title.endswith(":"):
        return
    click.echo(title)
    for line in lines:
        click.echo(f"  {line}")


def _log(line: str) -> None:
    click.echo(line, err=True)


_LABEL = 11  # columns
_DIGITS = 12
# Explains a number and is in no key; the rest of the environment is in the key too.
_ENVIRONMENT = ("git", "python", "platform", "processor", "device")


def _headline(record: Record) -> str:
    state = record.status if not record.error else f"{record.status}: {record.error}"
    return f"cell {record.key}: {record.head} seed {record.seed}, {state}"


def _key_parts(record: Record, columns: int = 100) -> Iterator[str]:
    """What the key is a hash of, a part a paragraph, then what the cell was made by."""
    identity = record.identity
    for name, value in identity.items():
        yield from _paragraph(name, _part(name, value, record), columns)
    made = {name: record.environment[name] for name in _ENVIRONMENT if record.environment.get(name)}
    yield from _paragraph("made by", [shown(made)], columns)


def _differences(a: Parts, b: Parts) -> list[str]:
    """In what B differs from A, a line each."""
    return [tell(change, a, b) for change in changes(a.identity, b.identity)]


def _environment_differences(a: Record, b: Record) -> list[str]:
    """What is in no key but may explain a time, or a last bit."""
    pairs = ((name, a.environment.get(name, ""), b.environment.get(name, "")) for name in _ENVIRONMENT)
    return [f"{name}: {old or 'unknown'} → {new or 'unknown'}" for name, old, new in pairs if old != new]


def _paragraph(label: str, lines: Sequence[str], columns: int) -> Iterator[str]:
    for number, line in enumerate(lines):
        start = f"  {label if not number else '':<{_LABEL}}"
        yield textwrap.fill(
            line, columns, initial_indent=start, subsequent_indent=" " * (len(start) + 2), break_on_hyphens=False
        )


def _part(name: str, value: Any, record: Record) -> list[str]:
    from benchkit.analysis.results import protocol_fields

    if name == "head":
        files = ", ".join(record.sources.get("head", {}))
        source = f"source {value['source'][:_DIGITS]}{f' ({files})' if files else ''}"
        return [f"{value['name']}: {shown(value['config'])}; {source}"]
    if name == "protocol":
        fields = protocol_fields(record.identity)
        plain = {field: each for field, each in fields.items() if not isinstance(each, Mapping)}
        tables = {field: each for field, each in fields.items() if isinstance(each, Mapping)}
        return [shown(plain), *(f"{field}: {shown(each)}" for field, each in tables.items())]
    if name == "tasks":
        return [f"{task['name']}: {task['loss']}, {task['metric']}" for task in value]
    if name == "data":
        return list(_data(value, record))
    if name == "encoder":
        return [f"{record.encoder.get('name', '')} {str(value)[:_DIGITS]}".strip()]
    if name == "engine":
        return [shown({field: each[:_DIGITS] if field == "source" else each for field, each in value.items()})]
    return [shown(value)]


def _data(value: Mapping[str, Mapping[str, str]], record: Record) -> Iterator[str]:
    rows = record.data.get("splits", {})
    for task, splits in value.items():
        each = [
            f"{name} {rows[task][name]['rows']:,} rows" if task in rows else name + f" {digest[:_DIGITS]}"
            for name, digest in splits.items()
        ]
        yield f"{task}: {', '.join(each)}"
    if "name" in record.data:
        yield f"from {record.data['name']}"
