"""`benchkit repro`: the report's numbers, and ours beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchkit.cli.run import run


@click.command(short_help="Set each of the report's numbers beside a run's.")
@click.argument("folder", metavar="DIR", required=False, type=click.Path(path_type=Path))
@click.option("--data", metavar="DIR", help="Folder with the tasks' data.")
@click.option("--encoder", metavar="NAME|DIR", help="The report's is bert-base-uncased.")
@click.option("--seeds", metavar="N", help="Number of seeds per head, or the seeds themselves as 0,5,7; default: 3.")
@click.option("--phases", metavar="NAMES", help="pretrain, finetune, or both, which is the default.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Change a field, as of benchkit run; what was changed is told; repeatable.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where results go; default: results/runs/paper-<encoder>.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), help="Cells that run at once.")
@click.option("--dry-run", is_flag=True, help="Show the cells and the estimated time; train nothing.")
@click.pass_context
def repro(context: click.Context, /, folder: Path | None, **options: Any) -> None:
    """Set each number of the report "miniBERT and Multitasking" beside that of a run, test and train.

    \b
    benchkit repro results/runs/paper-all-MiniLM-L6-v2
    benchkit repro --data DIR --encoder bert-base-uncased --dry-run

    With DIR, a finished run is read. Without, this is `benchkit run --preset paper` first, which is long work: the
    report took 2 to 4 hours a head and phase on an A100; --dry-run says how long it is here. Finished cells are reused.

    Each number has what chance allows, and a verdict; below, in what encoder, data or protocol are not the report's.
    Exit code 0, whatever the verdicts; 1: some cells failed; 2: there is nothing to compare.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.errors import UserError

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
    from benchkit.store.find import RUNS

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
    from benchkit.compare.published import published
    from benchkit.compare.repro import deviations, set_beside
    from benchkit.compare.repro_table import render
    from benchkit.plugins import load_plugins
    from benchkit.report.stored import read_runs

    report, stored = published(), read_runs([folder], log=lambda line: click.echo(line, err=True))
    rows = set_beside(stored, report)
    click.echo(render(rows, list(deviations(stored, report, load_plugins())), report))
