"""`benchkit report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from benchkit.report.stored import Stored
    from benchkit.report.verdicts import Verdict

_FORMATS = ("terminal", "markdown", "csv", "json", "latex")


@click.command(short_help="Compare finished runs: tables, and which differences are real.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--against", metavar="HEAD", help="Compare each head with this one; default: each with each.")
@click.option("--split", type=click.Choice(["test", "dev"]), default="test", show_default=True,
              help="What heads are told apart by; the table has both.")  # fmt: skip
@click.option("--aso", is_flag=True, help="Also the almost stochastic order over seeds; it takes many.")
@click.option(
    "--only", type=click.Choice(["scores", "verdicts"]), help="One of the two tables; csv: scores by default."
)
@click.option("--format", "format_", type=click.Choice(_FORMATS), default="terminal", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it there instead of printing it.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE",
              help="Also write one page with all of it: tables, charts, examples, provenance.")  # fmt: skip
@click.option("--texts/--no-texts", default=True, show_default=True,
              help="Examples on the page with their texts, or by ids: for data that may not be passed on.")  # fmt: skip
@click.option("--figures", type=click.Path(path_type=Path), metavar="DIR",
              help="Also write each plot as PNG and SVG.")  # fmt: skip
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a task that is not installed; repeatable.")  # fmt: skip
def report(folders: tuple[Path, ...], against: str | None, split: str, aso: bool, only: str | None, format_: str,
           out: Path | None, html: Path | None, texts: bool, figures: Path | None,
           head_files: tuple[Path, ...]) -> None:  # fmt: skip
    """Show what finished runs say, from their cells alone: nothing is trained.

    \b
    benchkit report results/runs/demo-embedded
    benchkit report results/runs/paper-* --against baseline --format latex --out table.tex
    benchkit report results/runs/paper-* --html report.html --figures figures

    Scores are means over seeds; differences are judged pair by pair over seeds and test examples. One head run with
    several settings is shown as several heads. Exit code 2: a folder has no usable cell, or the runs were scored on
    different data.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.report.paper import as_csv, as_json, as_text, verdicts_of
    from benchkit.report.stored import read_runs
    from benchkit.store.atomic import write_atomic

    stored = read_runs(folders, log=lambda line: click.echo(line, err=True), head_files=head_files)
    verdicts = verdicts_of(stored, split, against, aso=aso)
    if format_ == "csv":
        text = as_csv(stored, verdicts, only or "scores")
    elif format_ == "json":
        text = as_json(stored, verdicts)
    else:
        text = as_text(stored, verdicts, format_, only=only, against=against)  # type: ignore[arg-type]
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomic(out, text.encode())
        click.echo(f"wrote {out}")
    if html or figures:
        _write_page(stored, verdicts, html, figures, texts)


def _write_page(
    stored: Stored, verdicts: Sequence[Verdict], html: Path | None, figures: Path | None, texts: bool
) -> None:
    from benchkit.page import gather, write_figures, write_page

    content = gather(stored, verdicts, texts=texts)
    if html:
        write_page(content, html)
        click.echo(f"wrote {html}", err=True)
    if figures:
        paths = write_figures(content, figures)
        click.echo(f"wrote {len(paths)} files to {figures}", err=True)
