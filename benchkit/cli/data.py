"""`benchkit data`: fetch data, look at data before training on it."""

from __future__ import annotations

from pathlib import Path

import click

from benchkit.cli.data_fetch import fetch, list_sets, path


@click.group()
def data() -> None:
    """Fetch data from Hugging Face; look at data before training on it."""


@data.command()
@click.argument("folder", metavar="DIR|hub|demo")
@click.option("--tasks", metavar="NAMES", help="Tasks that must be there; default: the installed ones that are.")
@click.option("--head-file", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a task of yours; repeatable.")  # fmt: skip
def check(folder: str, tasks: str | None, files: tuple[Path, ...]) -> None:
    """Show rows, label balance, lengths, duplicates, texts shared between splits, broken rows and sha256.

    Files that were fetched are also compared with the record of what was fetched.

    Exits with 0 if the data can be used; with 1 if it was read but something is seriously off (listed under
    Problems: a split or a class missing, scores of another range, dev or test found in train) or a fetched file has
    changed; with 2 if the folder or a file cannot be used at all.
    """
    from benchkit.data import check_data, present
    from benchkit.data.tell import render
    from benchkit.errors import UserError
    from benchkit.hub.sets import HUB, changed, hub_folder
    from benchkit.plugins import load_plugins

    if folder == HUB:
        folder = str(hub_folder())
    plugins = load_plugins(files)
    if tasks is None:
        names = present(folder, list(plugins.tasks.values()))
    else:
        names = list(dict.fromkeys(name for each in tasks.split(",") if (name := each.strip())))
    if not names:
        raise UserError(f"--tasks names none; known: {', '.join(sorted(plugins.tasks))}")
    found = check_data(folder, [plugins.task(name) for name in names])
    click.echo(render(found))
    absent = [name for name in plugins.tasks if name not in names]
    if tasks is None and absent:
        click.echo(f"Not here: {', '.join(absent)}.")
    altered = changed(Path(folder))
    for line in altered:
        click.echo(f"benchkit: error: {line}; fetch it again", err=True)
    if altered or not found.usable:
        raise SystemExit(1)


data.add_command(fetch)
data.add_command(list_sets)
data.add_command(path)
