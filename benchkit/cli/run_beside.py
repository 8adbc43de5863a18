"""The runs beside a run: `benchkit run --controls` and `--single-task`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from benchkit.cli.progress import Progress
    from benchkit.record import Record
    from benchkit.runner.beside import Beside
    from benchkit.runner.session import Outcome, Session


def sessions(session: Session, controls: bool, single_task: bool) -> tuple[dict[str, Session], dict[str, Session]]:
    """Of the trained controls, by what is done, and of each task alone, by task; as far as they are asked for.

    Raises:
        UserError: there is only one task.
    """
    from benchkit.runner.beside import alone, trained_controls

    def opened(runs: Iterable[Beside]) -> dict[str, Session]:
        return {each.name: session.beside(each.plan) for each in runs}

    return (
        opened(trained_controls(session.plan)) if controls else {},
        opened(alone(session.plan)) if single_task else {},
    )


def run_all(runs: dict[str, Session], progress: Progress, what: str) -> dict[str, Outcome]:
    """Each run to its end, its own tables written to its own folder."""
    from benchkit.report import write_report

    found = {}
    for name, session in runs.items():
        progress.say(f"{what.format(name)}: {len(session.cells)} cells")
        outcome = session.run(progress)
        progress.close()
        phases = session.plan.protocol.phases
        write_report(
            session.plan.out, outcome.records, outcome.controls, outcome.tasks, phases=phases, log=progress.say
        )
        found[name] = outcome
    return found


def echo_gains(session: Session, outcome: Outcome, runs: dict[str, Session], alone: dict[str, Outcome]) -> None:
    """The table `together − alone`."""
    from benchkit.report.alone import Run, gains, render

    tasks = {name: Run.of(each.records, runs[name].store) for name, each in alone.items()}
    click.echo(f"\n{render(gains(Run.of(outcome.records, session.store), tasks, outcome.tasks))}")


def records_of(outcomes: Iterable[Outcome]) -> list[Record]:
    return [record for outcome in outcomes for record in outcome.records]
