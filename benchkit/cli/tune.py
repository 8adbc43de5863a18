"""`benchkit tune`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli import options
from benchkit.cli.output import fail, stop
from benchkit.cli.progress import interruptible, shown

if TYPE_CHECKING:
    from benchkit.cli.progress import Progress
    from benchkit.tuning.search import StudyResult, Tuning


@click.command(short_help="Search for a head's best config and learning rates.")
@click.option("--head", "--heads", "heads", type=options.NAMES,
              help="Heads to tune, comma separated; each gets a study with the same budget.")  # fmt: skip
@click.option("--trials", type=int, default=50, help="Number of finished trials per study; failed ones do not count.")
@click.option("--search", type=options.NAMES, default="head,lr",
              help="What is searched: head, dropout, lr, weight_decay, batch, schedule, loss, sampling, or fields such "
              "as cnn.pool.")  # fmt: skip
@options.settings("Set a field and exclude it from the search; repeatable.")
@click.option("--show-space", is_flag=True, help="Show the search space and exit.")
@click.option("--objective", metavar="NAME", default="mean",
              help="On dev: mean (over tasks), a task's name, pareto (mean against parameters) or "
              "pareto-latency (against the head's milliseconds for one example).")  # fmt: skip
@click.option("--match-params", metavar="SIZE", help="Only configs with this number of parameters, ±5 %: 250k, 1.5M.")
@click.option("--sampler", metavar="NAME", default="tpe", help="tpe, random, cmaes, qmc or grid.")
@click.option("--sampler-seed", type=int, default=0, help="Seed of the sampler; trials always train with seed 0.")
@click.option("--pruner", metavar="NAME", help="none, median or hyperband; default: median, or none with pareto.")
@click.option("--storage", metavar="URL",
              help="journal:PATH, sqlite:///PATH or postgresql+psycopg://…; default: a journal in --out.")  # fmt: skip
@click.option("--study", metavar="NAME",
              help="Name of the study; an existing one is continued; default: the head's name.")  # fmt: skip
@click.option("--final-seeds", type=int, default=3, help="Fresh seeds for the final comparison on test.")
@options.preset()
@options.protocol()
@options.head_file()
@options.tasks()
@options.data()
@options.encoder()
@options.phases("Phases of a trial; default: the protocol's first, on features encoded once.")
@options.device()
@options.precision()
@options.cuda_graph()
@options.compiled()
@options.out("Where results go; default: results/tune/<preset>-<encoder>.")
@options.jobs("Trials that run at once on this machine; default: as in benchkit run.")
@options.executor("Where trials run: local (in this process) or processes; default: by --jobs.")
@options.threads("CPU threads per trial.")
def tune(show_space: bool, **given: Any) -> None:
    """Search for a head's best config and learning rates on dev, then measure the gain on test.

    \b
    benchkit tune --head cnn --trials 50
    benchkit tune --heads baseline,recurrent,cnn --match-params 250k
    benchkit tune --head cnn --storage postgresql+psycopg://me@host/studies

    Texts are encoded once. Trials train heads on stored features and never see test. The first trial is the default
    config. The same command resumes a stopped search. Run on another machine with the same database, it adds a worker.
    Exit code 1: a study was given up because its trials kept failing, or a cell of the comparison failed.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.tuning.report import space_table
    from benchkit.tuning.search import TuneRequest, Tuning

    own = options.given({each.name: given.pop(each.name) for each in fields(TuneRequest) if each.name != "run"})
    request = TuneRequest(options.request(**given), **own)
    with shown() as progress:
        tuning = Tuning.open(request, options.load_plugins(request.run.head_files), progress)
        if show_space:
            for config in tuning.studies:
                click.echo(space_table(config.head, config.space) + "\n")
            return
        with closing(tuning):
            _tune(tuning, progress)


def _tune(tuning: Tuning, progress: Progress) -> None:
    from benchkit.tuning.report import write_search, write_study
    from benchkit.tuning.search import describe

    tuning.start(progress)
    found: list[StudyResult] = []
    for config in tuning.studies:
        for line in describe(tuning, config):
            progress.say(line)
        with interruptible() as interrupted:
            each = tuning.search(config, progress, interrupted)
        progress.close()
        if interrupted():
            finished = f"{sum(trial.finished for trial in each.trials)} of {config.trials} trials"
            stop(f"stopped with {finished} of study {config.name!r}; the same command goes on", 130)
        found.append(each)
    progress.jobs = tuning.session.plan.jobs
    found = [tuning.conclude(each, progress) for each in found]
    progress.close()
    pictures = {
        each.config.name: write_study(tuning.folder(each.config), each, tuning.storage, progress.say) for each in found
    }
    write_search(tuning.session.plan.out, found, pictures)
    _print(tuning, found)


def _print(tuning: Tuning, found: list[StudyResult]) -> None:
    from benchkit.tuning.report import best_table, budget_table, final_note, final_table, front_table

    for each in found:
        click.echo(f"\n{best_table(each)}")
        if each.front:
            click.echo(f"\n{front_table(each)}")
        if each.final:
            click.echo("\n  ".join([f"\n{final_table(each.final)}", *final_note(each.final)]))
    tuned = [each for each in found if each.best]
    if tuned:
        click.echo(f"\n{budget_table(tuned)}")
    where = ", ".join(str(tuning.folder(each.config) / "best.toml") for each in tuned)
    click.echo(f"\nbest config: {where}; everything on one page: {tuning.session.plan.out / 'tune.html'}")
    final = [each.final.records.values() for each in found if each.final]
    failed = [each for sides in final for records in sides for each in records if each.status == "failed"]
    problems = [f"study {each.config.name!r} was given up: {each.problem}" for each in found if each.problem]
    fail([*problems, *(f"{record.head} seed {record.seed}: {record.error}" for record in failed)])
