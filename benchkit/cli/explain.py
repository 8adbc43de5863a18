"""`benchkit explain`: what a cell's key is made of, and why a run reuses it or not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

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
    """Show what a cell's key is made of, and which part of it differs: from another cell, or from a run of today.

    \b
    benchkit explain 1d59892e
    benchkit explain 1d59892e 8d215a44 --out results/runs/demo-embedded

    A CELL is its folder, or the beginning of its key. A single one is compared with what the same request would be
    now: its head, data, encoder and benchkit's own code are looked at again. For a run that is not stored yet,
    `benchkit run … --dry-run` says what sets each of its cells apart from the nearest one stored.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.store.cells import find_cell, open_record

    folders = [find_cell(name, out) for name in (cell, other) if name is not None]
    records = [open_record(folder, _log) for folder in folders]
    if other is None:
        _alone(records[0], folders[0], head_files)
    else:
        _pair(records[0], records[1], folders)


def _alone(record: Record, folder: Path, head_files: tuple[Path, ...]) -> None:
    from benchkit.analysis.notes import differences, headline, key_parts
    from benchkit.core.identity import parts_of
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.explain import today
    from benchkit.experiment.workspace import Workspace
    from benchkit.store.files import cache_root

    click.echo(headline(record))
    click.echo(f"in {folder}\n")
    for line in key_parts(record):
        click.echo(line)
    click.echo()
    now = today(record, Workspace(load_plugins(head_files), cache_root(), _log))
    found = differences(parts_of(record), now.parts)
    _say(_verdict(record, bool(found), bool(now.unknown)), found)
    _say("Not looked at:", now.unknown)
    _neighbour(record, folder)


def _verdict(record: Record, changed: bool, unknown: bool) -> str:
    if changed:
        return "The same request would run anew today, since this changed:"
    if record.status == "failed":
        return "Nothing in the key changed; the same request would try it again, since it failed."
    if unknown:
        return "Nothing in the key changed as far as can be seen; if so, the same request reuses it."
    return "Nothing in the key changed: the same request reuses it."


def _neighbour(record: Record, folder: Path) -> None:
    """The nearest cell of the same head and seed in the same run, which is what a reader wonders about."""
    from benchkit.analysis.notes import differences
    from benchkit.core.identity import nearest, parts_of
    from benchkit.store.cells import CellStore

    store = CellStore(folder.parent, log=_log)
    others = [found for key in store.keys() if key != record.key and (found := store.load(key))]  # noqa: SIM118
    near = nearest(parts_of(record), others)
    if near is not None:
        title = f"Nearest cell of the same head and seed in this run, {near.key}, differs in:"
        _say(title, differences(parts_of(record), parts_of(near)))


def _pair(a: Record, b: Record, folders: list[Path]) -> None:
    from benchkit.analysis.notes import around, differences, headline
    from benchkit.core.identity import parts_of

    for record, folder in zip((a, b), folders, strict=True):
        click.echo(headline(record))
        click.echo(f"in {folder}")
    click.echo()
    found = differences(parts_of(a), parts_of(b))
    if found:
        _say("The second has a key of its own, since it differs from the first in:", found)
    elif folders[0] == folders[1]:
        click.echo("This is one and the same cell.")
    else:
        click.echo("The two have one key: a run would reuse either for the other.")
    _say("In no key, but different too:", around(a, b))


def _say(title: str, lines: list[str] | tuple[str, ...]) -> None:
    if not lines and title.endswith(":"):
        return
    click.echo(title)
    for line in lines:
        click.echo(f"  {line}")


def _log(line: str) -> None:
    click.echo(line, err=True)
