"""`benchkit report`, `plan`, `compare`, `repro`: what stored cells show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli.run import run

if TYPE_CHECKING:
    from benchkit.analysis.comparisons import Verdict
    from benchkit.analysis.results import Stored


_FORMATS = ("terminal", "markdown", "csv", "json", "latex")


@click.command(short_help="Compare finished runs: tables, and which differences are real.")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--against", metavar="HEAD", help="Compare each head with this one; default: each with each.")
@click.option("--split", type=click.Choice(["test", "dev"]), default="test", show_default=True,
              help="What heads are compared on; the table has both.")  # fmt: skip
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
    from benchkit.analysis.comparisons import compare_all
    from benchkit.analysis.report import as_csv, as_json, as_text
    from benchkit.analysis.results import read_runs
    from benchkit.store.files import write_atomic

    stored = read_runs(folders, log=_log, head_files=head_files)
    verdicts = compare_all(stored, split, against, aso=aso)
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
    from benchkit.analysis.comparisons import read_predictions

    predictions = read_predictions(stored)
    if html:
        from benchkit.analysis.html import page
        from benchkit.store.files import write_atomic

        write_atomic(html, page(stored, verdicts, predictions, texts=texts).encode())
        click.echo(f"wrote {html}", err=True)
    if figures:
        from benchkit.analysis.plots import write_figures

        paths = write_figures(stored, predictions, figures)
        click.echo(f"wrote {len(paths)} files to {figures}", err=True)


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
    """Power analysis from the variance in finished cells: seeds needed to find a difference, and their time.

    \b
    benchkit run --heads baseline,cnn --seeds 3
    benchkit plan results/runs/demo-embedded --difference 0.02 --power 0.9

    More seeds average out the chance of training, not that of which examples the test set has: where these are too
    few for the difference, it says so. Takes at least two seeds of two heads; with three it is a rough guess.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.analysis.comparisons import needs, plan_sections
    from benchkit.analysis.results import read_runs
    from benchkit.analysis.tables import render_all
    from benchkit.core.errors import UserError

    if not difference > 0:
        raise UserError(f"--difference takes a positive number, such as 0.01, not {difference:g}")
    if not 0.05 < power < 1:
        raise UserError(f"--power takes a number between 0.05 and 1, such as 0.8, not {power:g}")
    stored = read_runs(folders, log=_log, head_files=head_files)
    found = needs(stored, difference, power, split, against)
    click.echo(render_all(plan_sections(stored, found, difference, power)), nl=False)


_ACROSS = ("data", "protocol", "machine", "encoder")


@click.command(short_help="Compare two runs, cell by cell; exit code 1 for a regression.")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option("--fail-if", "conditions", multiple=True, metavar="CONDITION",
              help="What is a regression: sst.accuracy<-1.0, speed.train<-5%; repeatable.")  # fmt: skip
@click.option("--sure", is_flag=True, help="Fail only if the whole 95 % interval fulfils the condition.")
@click.option("--across", type=click.Choice(_ACROSS), multiple=True,
              help="A difference between the runs that is meant; repeatable.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "dev"]), help="Default: test, or dev where test is unlabelled.")
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a task that is not installed; repeatable.")  # fmt: skip
def compare(a: Path, b: Path, conditions: tuple[str, ...], sure: bool, across: tuple[str, ...], split: str | None,
            head_files: tuple[Path, ...]) -> None:  # fmt: skip
    """Compare run B with run A, two folders that `benchkit run` wrote: cells of the same head and seed in pairs.

    \b
    benchkit compare results/runs/before results/runs/after --fail-if 'sst.accuracy<-1.0' --fail-if 'speed.train<-5%'

    A condition is [HEAD:]QUANTITY<NUMBER, with <, <=, > or >=, on B minus A. TASK.METRIC and mean.score are in points,
    hundredths of the metric: -1.0 is from 0.40 to 0.39. speed.train, speed.eval and memory.peak are in per cent of A,
    with a %. Without a head it is looked at for every head. A head whose cell has a number in A and none in B fulfils
    each condition on it.

    Exit code 0: no condition holds; 1: one does, a regression; 2: the runs cannot be compared, which is also so where
    they differ in data, protocol, machine or encoder and --across does not say that this is meant.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.analysis.compare import compare as compare_runs
    from benchkit.analysis.compare import judge, parse, section
    from benchkit.analysis.results import read_runs
    from benchkit.analysis.tables import render

    wanted = [parse(text) for text in conditions]  # before anything is read
    first, second = (read_runs([folder], log=_log, head_files=head_files) for folder in (a, b))
    found = compare_runs(first, second, wanted, across=across, split=split or "")
    verdicts = judge(found, wanted, sure=sure)
    click.echo(f"A  {a}\nB  {b}\n\n{render(section(found))}")
    if not verdicts:
        return
    click.echo()
    for each in verdicts:
        click.echo(f"{'✗' if each.holds else '✓'} {each.text}")
    if any(each.holds for each in verdicts):
        raise SystemExit(1)


def _log(line: str) -> None:
    click.echo(line, err=True)


@click.command(short_help="Compare each of the report's numbers with a run's.")
@click.argument("folder", metavar="DIR", required=False, type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR", help="Folder with the tasks' data.")
@click.option("--encoder", metavar="NAME|DIR", help="The report's is bert-base-uncased.")
@click.option("--seeds", metavar="N", help="Number of seeds per head, or the seeds themselves as 0,5,7; default: 3.")
@click.option("--phases", metavar="NAMES", help="pretrain, finetune, or both, which is the default.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Change a field, as of benchkit run; what was changed is listed; repeatable.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where results go; default: results/runs/paper-<encoder>.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), help="Cells that run at once.")
@click.option("--dry-run", is_flag=True, help="Show the cells and the estimated time; train nothing.")
@click.pass_context
def repro(context: click.Context, /, folder: Path | None, **options: Any) -> None:
    """Compare each number of the report "miniBERT and Multitasking" with that of a run, test and train.

    \b
    benchkit repro results/runs/paper-all-MiniLM-L6-v2
    benchkit repro --data DIR --encoder bert-base-uncased --dry-run

    With DIR, a finished run is read. Without, this is `benchkit run --preset paper` first, which is long work: the
    report took 2 to 4 hours a head and phase on an A100; --dry-run says how long it is here. Finished cells are reused.

    Each number has what chance allows, and a verdict; below, in what encoder, data or protocol are not the report's.
    Exit code 0, whatever the verdicts; 1: some cells failed; 2: there is nothing to compare.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.core.errors import UserError

    given = [f"--{name.replace('settings', 'set').replace('_', '-')}" for name, value in options.items() if value]
    if folder is not None and given:
        raise UserError(f"a DIR is read and not run: leave out {', '.join(given)}, or DIR")
    code = 0
    if folder is None:
        folder, code = _run(context, options)
        if options["dry_run"]:
            return
    _show(folder)
    if code:
        raise SystemExit(code)


def _run(context: click.Context, options: dict[str, Any]) -> tuple[Path, int]:
    """Run the preset; where some cells failed, the others are shown all the same."""
    from benchkit.store.cells import RUNS

    out = options.pop("out") or RUNS / f"paper-{Path(options['encoder'] or '').name}"
    if options["encoder"] and options["data"] and not options["dry_run"]:
        click.echo(
            "Running the preset paper: long work. A run that is stopped goes on with the same command.", err=True
        )
    try:
        context.invoke(run, preset="paper", out=out, **options)
    except SystemExit as stop:
        if stop.code != 1:
            raise
        return out, 1
    click.echo()
    return out, 0


def _show(folder: Path) -> None:
    from benchkit.analysis.baselines import agreement_section, agreements, deviations, published
    from benchkit.analysis.results import read_runs
    from benchkit.analysis.tables import render
    from benchkit.core.plugins import load_plugins

    report, stored = published(), read_runs([folder], log=_log)
    rows = agreements(stored, report)
    click.echo(render(agreement_section(rows, list(deviations(stored, report, load_plugins())), report)))
