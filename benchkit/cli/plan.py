"""`benchkit plan`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="How many seeds a difference takes, and how long they run.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--difference", type=float, default=0.01, show_default=True,
              help="The difference that should be found, in the tasks' metrics.")  # fmt: skip
@click.option("--power", type=float, default=0.8, show_default=True, help="How probably, between 0.05 and 1.")
@click.option("--against", metavar="HEAD", help="Compare each head with this one; default: each with each.")
@click.option("--split", type=click.Choice(["test", "dev"]), default="test", show_default=True)
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a task that is not installed; repeatable.")  # fmt: skip
def plan(folders: tuple[Path, ...], difference: float, power: float, against: str | None, split: str,
         head_files: tuple[Path, ...]) -> None:  # fmt: skip
    """From the variance in finished cells: seeds needed to find a difference between heads, and their time.

    \b
    benchkit run --heads baseline,cnn --seeds 3
    benchkit plan results/runs/demo-embedded --difference 0.02 --power 0.9

    More seeds average out the chance of training, not that of which examples the test set has: where these are too
    few for the difference, it says so. Takes at least two seeds of two heads; with three it is a rough guess.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.errors import UserError
    from benchkit.report.plan import as_text, needs
    from benchkit.report.stored import read_runs

    if not difference > 0:
        raise UserError(f"--difference takes a positive number, such as 0.01, not {difference:g}")
    if not 0.05 < power < 1:
        raise UserError(f"--power takes a number between 0.05 and 1, such as 0.8, not {power:g}")
    stored = read_runs(folders, log=lambda line: click.echo(line, err=True), head_files=head_files)
    click.echo(as_text(stored, needs(stored, difference, power, split, against), difference, power), nl=False)
