"""`benchkit tune`."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchkit.cli.progress import Interrupt, Progress
    from benchkit.tuning.search import StudyResult, TuneRequest, Tuning


@click.command(short_help="Search for a head's best config and rates.")
@click.option("--head", "--heads", "heads", metavar="NAMES",
              help="Head to tune; several, comma separated, get a study each with the same budget.")  # fmt: skip
@click.option("--trials", type=int, default=50, show_default=True,
              help="Finished trials of a study in all, whoever runs them; failed ones do not count.")  # fmt: skip
@click.option("--search", metavar="NAMES", default="head,lr", show_default=True,
              help="What is searched: head, dropout, lr, weight_decay, batch, schedule, loss, sampling, or fields such "
              "as cnn.pool.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Change a field, and keep it out of the search; repeatable.")  # fmt: skip
@click.option("--show-space", is_flag=True, help="Show what would be searched, and stop.")
@click.option("--objective", metavar="NAME", default="mean", show_default=True,
              help="On dev: mean (over tasks), a task's name, pareto (mean against parameters) or "
              "pareto-latency (against the head's milliseconds for one example).")  # fmt: skip
@click.option("--match-params", metavar="SIZE", help="Only configs with so many parameters, ±5 %: 250k, 1.5M.")
@click.option("--sampler", metavar="NAME", default="tpe", show_default=True, help="tpe, random, cmaes, qmc or grid.")
@click.option("--sampler-seed", type=int, default=0, show_default=True, help="Trials train with seed 0, whatever this.")
@click.option("--pruner", metavar="NAME", help="none, median or hyperband; default: median, with pareto none.")
@click.option("--storage", metavar="URL",
              help="journal:PATH, sqlite:///PATH or postgresql+psycopg://…; default: a journal in --out.")  # fmt: skip
@click.option("--study", metavar="NAME", help="Default: the head's name. The same name goes on with it.")
@click.option("--final-seeds", type=int, default=3, show_default=True,
              help="Fresh seeds for the best and the default config, compared on test at the end.")  # fmt: skip
@click.option("--preset", metavar="NAME", help="A shipped protocol: demo (the default), paper, strong or frozen.")
@click.option("--protocol", type=click.Path(path_type=Path), help="A protocol of your own, as TOML.")
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a head of yours; repeatable.")  # fmt: skip
@click.option("--tasks", metavar="NAMES", help="Tasks to train together; default: the preset's.")
@click.option("--data", metavar="DIR", help="Folder with the tasks' data, `hub`, or `demo`; default: the preset's.")
@click.option("--encoder", metavar="NAME|DIR", help="An encoder's name, or a folder in the Hugging Face layout.")
@click.option(
    "--phases", metavar="NAMES", help="Phases of a trial; default: the protocol's first, on features encoded once."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Of the encoder.")
@click.option("--cuda-graph/--no-cuda-graph", "cuda_graph", default=None,
              help="Capture steps as CUDA graphs and replay them; default: on a GPU.")  # fmt: skip
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True,
              help="Hand the encoder's layers to torch.compile where they are trained.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where results go; default: results/tune/<preset>-<encoder>.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(min=1), help="Trials that run at once here; default: as benchkit run.")
@click.option("--executor", metavar="NAME",
              help="Where trials run: local (in this process) or processes; default: by --jobs.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads per trial.")
def tune(**options: Any) -> None:
    """Search for the config and rates with which a head does best on dev, then see on test what that bought.

    \b
    benchkit tune --head cnn --trials 50
    benchkit tune --heads baseline,recurrent,cnn --match-params 250k
    benchkit tune --head cnn --storage postgresql+psycopg://me@host/studies

    Texts are encoded once; trials train heads on stored features and never see test. The first trial is the default
    config. The same command goes on where it was stopped, and on another machine, with the same database, helps.
    Exit code 1: a study was given up, because its trials kept failing, or a cell of the comparison failed.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    show = options.pop("show_space")
    request = _request(options)

    from benchkit.cli.progress import Interrupt, Progress
    from benchkit.core.plugins import load_plugins
    from benchkit.tuning.search import Tuning

    progress = Progress()
    interrupt = Interrupt()
    try:
        tuning = Tuning.open(request, load_plugins(request.run.head_files), progress)
        if show:
            _show_spaces(tuning)
            return
        with closing(tuning):
            _tune(tuning, progress, interrupt)
    except KeyboardInterrupt:
        progress.close()
        click.echo("benchkit: interrupted; the same command goes on", err=True)
        sys.exit(130)
    finally:
        progress.close()


def _request(options: dict[str, Any]) -> TuneRequest:
    from benchkit.experiment.config import Request, split_names
    from benchkit.tuning.search import TuneRequest

    own = {name: options.pop(name) for name in ("trials", "sampler", "sampler_seed", "objective", "final_seeds")}
    own |= {name: options.pop(name) or "" for name in ("pruner", "match_params", "study", "storage")}
    search = split_names(options.pop("search"))
    names: dict[str, Any] = {name: split_names(options.pop(name) or "") for name in ("heads", "tasks", "phases")}
    texts: dict[str, Any] = {
        name: options.pop(name) or "" for name in ("preset", "data", "encoder", "precision", "executor")
    }
    lists: dict[str, Any] = {name: tuple(options.pop(name)) for name in ("settings", "head_files")}
    return TuneRequest(
        Request(**names, **texts, **lists, jobs=options.pop("jobs") or 0, **options), search=search, **own
    )


def _show_spaces(tuning: Tuning) -> None:
    from benchkit.tuning.report import space_table

    for config in tuning.studies:
        click.echo(space_table(config.head, config.space) + "\n")


def _tune(tuning: Tuning, progress: Progress, interrupt: Interrupt) -> None:
    from benchkit.tuning.report import write_search, write_study
    from benchkit.tuning.search import describe

    tuning.start(progress)
    found: list[StudyResult] = []
    for config in tuning.studies:
        for line in describe(tuning, config):
            progress.say(line)
        with interrupt.listening():
            each = tuning.search(config, progress, interrupt)
        progress.close()
        if interrupt():
            _stopped(each)
        found.append(each)
    progress.jobs = tuning.session.plan.jobs
    found = [tuning.conclude(each, progress) for each in found]
    progress.close()
    pictures = {
        each.config.name: write_study(tuning.folder(each.config), each, tuning.storage, progress.say) for each in found
    }
    write_search(tuning.session.plan.out, found, pictures, progress.say)
    _print(tuning, found)


def _stopped(found: StudyResult) -> None:
    finished = sum(trial.finished for trial in found.trials)
    config = found.config
    line = f"benchkit: stopped with {finished} of {config.trials} trials of study {config.name!r}; "
    line += "the same command goes on"
    click.echo(line, err=True)
    sys.exit(130)


def _print(tuning: Tuning, found: list[StudyResult]) -> None:
    from benchkit.tuning.report import best_table, budget_table, final_note, final_table, front_table

    for each in found:
        click.echo(f"\n{best_table(each)}")
        if each.front:
            click.echo(f"\n{front_table(each)}")
        if each.final:
            click.echo(f"\n{final_table(each.final)}")
            for line in final_note(each.final):
                click.echo(f"  {line}")
    if any(each.best for each in found):
        click.echo(f"\n{budget_table([each for each in found if each.best])}")
    out = tuning.session.plan.out
    where = [str(tuning.folder(each.config) / "best.toml") for each in found if each.best]
    click.echo(f"\nbest config: {', '.join(where)}; everything on one page: {out / 'tune.html'}")
    for each in found:
        if each.problem:
            click.echo(f"benchkit: error: study {each.config.name!r} was given up: {each.problem}", err=True)
    final = [each.final.records.values() for each in found if each.final]
    failed = [each for sides in final for records in sides for each in records if each.status == "failed"]
    for record in failed:
        click.echo(f"benchkit: error: {record.head} seed {record.seed}: {record.error}", err=True)
    if failed or any(each.problem for each in found):
        sys.exit(1)
