"""`benchkit data`: fetch data sets, look at data."""

from __future__ import annotations

from pathlib import Path

import click

from benchkit.cli import options
from benchkit.cli.output import fail, labelled, size
from benchkit.cli.progress import Progress
from benchkit.core.errors import UserError


@click.group()
def data() -> None:
    """Fetch data from Hugging Face; check data before training on it."""


@data.command()
@click.argument("names", nargs=-1, required=True, metavar="sst|quora|sts|all")
@click.option("--revision", metavar="COMMIT", help="A commit, branch or tag instead of the pinned one.")
@click.option("--from", "by_hand", type=options.DIR,
              help="A folder with the repository's files, instead of a download.")  # fmt: skip
def fetch(names: tuple[str, ...], revision: str | None, by_hand: Path | None) -> None:
    """Fetch data sets from Hugging Face, check them, and put them where --data hub finds them.

    \b
    benchkit data fetch all
    benchkit run --preset paper --data hub --encoder DIR

    The next call continues an interrupted download. HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and the proxy
    variables are used. Licences and citations are shown.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.hub.datasets import data_root, fetch_set, source_of, sources

    wanted = dict.fromkeys(each for name in names for each in (sources() if name == "all" else (name,)))
    chosen = [source_of(name) for name in wanted]
    if revision and len(chosen) > 1:
        raise UserError("--revision is of one repository: name one data set")
    if by_hand is not None and not by_hand.is_dir():
        raise UserError(f"--from {by_hand}: no such folder")
    for source in chosen:
        record = fetch_set(source, Progress(), revision or "", by_hand)
        rows = ", ".join(f"{split} {count:,}" for split, count in record.rows.items())
        click.echo(f"{source.task}: {rows}; from {record.repo} at {record.revision[:12]}")
        for name, text in (("splits", record.splits), ("licence", record.licence), ("cite", record.citation)):
            click.echo(labelled(f"  {name:<8}", text))
    click.echo(f"in {data_root()}: use it with --data hub")


@data.command("list")
def list_sets() -> None:
    """List the data sets that can be fetched, and those that are here."""
    from benchkit.hub.datasets import data_root, fetched_sets, sources
    from benchkit.hub.download import damage

    here, parts = fetched_sets(), []
    for task, source in sources().items():
        record = here.get(task)
        if record is None:
            state = f"not fetched, {size(source.size)}: benchkit data fetch {task}"
        elif damage(data_root() / task, record):
            state = "changed since it was fetched: benchkit data check hub says what"
        else:
            state = f"fetched {record.when[:10]}, in {data_root() / task}"
        origin = f"{source.repo} at {record.revision if record else source.revision}"
        texts = {"from": origin, "splits": source.splits, "licence": source.licence, "cite": source.citation}
        lines = [labelled(f"  {name:<9}", text) for name, text in (*texts.items(), ("state", state))]
        parts.append("\n".join([task, *lines]))
    click.echo("\n\n".join(parts))


@data.command()
@click.argument("name", metavar="[sst|quora|sts]", required=False)
def path(name: str | None) -> None:
    """Print the folder of all fetched data, or of one data set."""
    from benchkit.hub.datasets import data_root, fetched_sets, hub_folder, source_of

    if name is None:
        click.echo(hub_folder())
        return
    if source_of(name).task not in fetched_sets():
        raise UserError(f"{name} has not been fetched: benchkit data fetch {name}")
    click.echo(data_root() / name)


@data.command()
@click.argument("folder", metavar="DIR|hub|demo")
@options.tasks("Tasks that the data must have; default: all installed ones that it has.")
@options.head_file("A Python file with a task of yours; repeatable.")
def check(folder: str, tasks: tuple[str, ...] | None, head_files: tuple[Path, ...]) -> None:
    """Show rows, label balance, lengths, duplicates, texts shared between splits, broken rows and sha256.

    Fetched files are also compared with the record that was written when they were fetched.

    Exit code 0: the data can be used. 1: the data was read but has serious problems (a missing split or class, scores
    in another range, dev or test rows in train; listed under Problems), or a fetched file has changed. 2: the folder or
    a file cannot be used at all.
    """
    from benchkit.data import check_data, present
    from benchkit.data.check import render
    from benchkit.hub.datasets import HUB, changed, hub_folder

    if folder == HUB:
        folder = str(hub_folder())
    plugins = options.load_plugins(head_files)
    names = present(folder, list(plugins.tasks.values())) if tasks is None else list(dict.fromkeys(tasks))
    if not names:
        raise UserError(f"--tasks names none; known: {', '.join(sorted(plugins.tasks))}")
    found = check_data(folder, [plugins.task(name) for name in names])
    click.echo(render(found))
    absent = [name for name in plugins.tasks if name not in names]
    if tasks is None and absent:
        click.echo(f"Not here: {', '.join(absent)}.")
    fail(f"{line}; fetch it again" for line in changed(Path(folder)))
    if not found.usable:
        raise SystemExit(1)
