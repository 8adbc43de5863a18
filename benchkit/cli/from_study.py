"""`benchkit run --from-study`."""

from __future__ import annotations

import sys
from typing import Any

import click

# What a study has settled; --data and --encoder may say where these are on another machine.
_SETTLED = ("heads", "tasks", "phases", "preset", "protocol", "settings", "precision", "dry_run",
            "interference", "controls", "single_task")  # fmt: skip


def run_study(study: str | None, storage: str | None, options: dict[str, Any]) -> None:
    """Train a study's best config and its default, and print how they compare."""
    from benchkit.cli.progress import Progress
    from benchkit.errors import UserError
    from benchkit.runner.request import parse_seeds
    from benchkit.tune.again import run_again
    from benchkit.tune.tables import final_note, final_table

    if study is None:
        raise UserError("--storage says where a study is: name it with --from-study")
    given = [f"--{name.replace('settings', 'set').replace('_', '-')}" for name in _SETTLED if options[name]]
    if given:
        raise UserError(f"--from-study takes everything from the study, so leave out {', '.join(given)}")
    if options["at_once"] > 1:
        raise UserError("--from-study trains in processes of its own: use --jobs instead of --at-once")
    seeds = parse_seeds(options["seeds"]) if options["seeds"] is not None else ()
    progress = Progress(jobs=options["jobs"] or 1)
    try:
        final, out = run_again(study, storage or "", seeds, options, progress)
    except KeyboardInterrupt:
        progress.close()
        click.echo("benchkit: interrupted; the same command goes on from the last finished epoch", err=True)
        sys.exit(130)
    finally:
        progress.close()
    click.echo(f"\n{final_table(final)}")
    for line in final_note(final):
        click.echo(f"  {line}")
    click.echo(f"\ncells are in {out}")
    if not final.differences:
        sys.exit(1)
