"""`benchkit data fetch`, `list` and `path`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="sst|quora|sts|all")
@click.option("--revision", metavar="COMMIT", default="",
              help="Another commit, branch or tag of the repository than the pinned commit.")  # fmt: skip
@click.option("--from", "by_hand", type=click.Path(path_type=Path), metavar="DIR",
              help="Take the repository's files from a folder instead: no network is needed.")  # fmt: skip
def fetch(names: tuple[str, ...], revision: str, by_hand: Path | None) -> None:
    """Fetch data sets from Hugging Face, check them, and put them where --data hub finds them.

    \b
    benchkit data fetch all
    benchkit run --preset paper --data hub --encoder DIR

    A download that was cut goes on where it was. HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables
    are honoured. Licences and citations are shown.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.cli.fetching import FetchProgress
    from benchkit.errors import UserError
    from benchkit.hub.sets import SetRequest, data_root, fetch_set
    from benchkit.hub.sources import SOURCES, source_of

    wanted = dict.fromkeys(each for name in names for each in (SOURCES if name == "all" else (name,)))
    sources = [source_of(name) for name in wanted]
    if revision and len(sources) > 1:
        raise UserError("--revision is of one repository: name one data set")
    if by_hand is not None and not by_hand.is_dir():
        raise UserError(f"--from {by_hand}: no such folder")
    for source in sources:
        record = fetch_set(source, SetRequest(revision, by_hand), FetchProgress())
        rows = ", ".join(f"{split} {count:,}" for split, count in record.rows.items())
        click.echo(f"{source.task}: {rows}; from {record.repo} at {record.revision[:12]}")
        for name, text in (("splits", record.splits), ("licence", record.licence), ("cite", record.citation)):
            click.echo(_wrap(f"  {name:<8}{text}"))
    click.echo(f"in {data_root()}: use it with --data hub")


@click.command("list")
def list_sets() -> None:
    """List the data sets that can be fetched, and what of them is here."""
    from benchkit.cli.fetching import size
    from benchkit.hub.record import damage
    from benchkit.hub.sets import data_root, fetched_sets
    from benchkit.hub.sources import SOURCES

    here, parts = fetched_sets(), []
    for task, source in SOURCES.items():
        record = here.get(task)
        if record is None:
            state = f"not fetched, {size(source.size)}: benchkit data fetch {task}"
        elif damage(data_root() / task, record):
            state = "changed since it was fetched: benchkit data check hub says what"
        else:
            state = f"fetched {record.when[:10]}, in {data_root() / task}"
        texts = {
            "from": f"{source.repo} at {record.revision if record else source.revision}",
            "splits": source.splits,
            "licence": source.licence,
            "cite": source.citation,
            "state": state,
        }
        parts.append("\n".join([task, *(_wrap(f"  {name:<9}{text}", 11) for name, text in texts.items())]))
    click.echo("\n\n".join(parts))


@click.command()
@click.argument("name", metavar="[sst|quora|sts]", required=False)
def path(name: str | None) -> None:
    """Print the folder of what has been fetched, or of one data set."""
    from benchkit.errors import UserError
    from benchkit.hub.sets import data_root, fetched_sets, hub_folder
    from benchkit.hub.sources import source_of

    if name is None:
        click.echo(hub_folder())
        return
    if source_of(name).task not in fetched_sets():
        raise UserError(f"{name} has not been fetched: benchkit data fetch {name}")
    click.echo(data_root() / name)


def _wrap(text: str, indent: int = 10) -> str:
    import textwrap

    return textwrap.fill(text, 100, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
