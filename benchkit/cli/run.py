"""`benchkit run --from-study`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchkit.cli.progress import Progress
    from benchkit.core.record import Record
    from benchkit.experiment.companions import Beside
    from benchkit.experiment.config import Request
    from benchkit.experiment.session import Outcome, Session


# What a study has settled; --data and --encoder may say where these are on another machine.
_SETTLED = ("heads", "tasks", "phases", "preset", "protocol", "settings", "precision", "dry_run",
            "interference", "controls", "single_task")  # fmt: skip


def run_study(study: str | None, storage: str | None, options: dict[str, Any]) -> None:
    """Train a study's best config and its default, and print how they compare."""
    from benchkit.cli.progress import Progress
    from benchkit.core.errors import UserError
    from benchkit.experiment.config import parse_seeds
    from benchkit.tuning.final import run_again
    from benchkit.tuning.report import final_note, final_table

    if study is None:
        raise UserError("--storage says where a study is: name it with --from-study")
    given = [f"--{name.replace('settings', 'set').replace('_', '-')}" for name in _SETTLED if options[name]]
    if given:
        raise UserError(f"--from-study takes everything from the study, so leave out {', '.join(given)}")
    if options["executor"] == "local":
        raise UserError("--from-study trains in processes of its own: leave out --executor local")
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


def sessions(session: Session, controls: bool, single_task: bool) -> tuple[dict[str, Session], dict[str, Session]]:
    """Of the trained controls, by what is done, and of each task alone, by task; as far as they are asked for.

    Raises:
        UserError: there is only one task.
    """
    from benchkit.experiment.companions import alone, trained_controls

    def opened(runs: Iterable[Beside]) -> dict[str, Session]:
        return {each.name: session.beside(each.plan) for each in runs}

    return (
        opened(trained_controls(session.plan)) if controls else {},
        opened(alone(session.plan)) if single_task else {},
    )


def run_all(runs: dict[str, Session], progress: Progress, what: str) -> dict[str, Outcome]:
    """Each run to its end, its own tables written to its own folder."""
    from benchkit.analysis.report import write_report
    from benchkit.analysis.tables import collect

    found = {}
    for name, session in runs.items():
        progress.say(f"{what.format(name)}: {len(session.cells)} cells")
        outcome = session.run(progress)
        progress.close()
        results = collect(outcome.records, outcome.controls, outcome.tasks, session.plan.protocol.phases)
        write_report(session.plan.out, results, outcome.records, log=progress.say)
        found[name] = outcome
    return found


def echo_gains(session: Session, outcome: Outcome, runs: dict[str, Session], alone: dict[str, Outcome]) -> None:
    """The table `together − alone`."""
    from benchkit.analysis.baselines import gains, gains_section
    from benchkit.analysis.tables import render

    stores = [(outcome, session.store), *((each, runs[name].store) for name, each in alone.items())]
    folders = {record.key: store.root / record.key for each, store in stores for record in each.records}
    baselines = {name: each.records for name, each in alone.items()}
    section = gains_section(gains(outcome.records, baselines, outcome.tasks, folders))
    if section:
        click.echo(f"\n{render(section)}")


def records_of(outcomes: Iterable[Outcome]) -> list[Record]:
    return [record for outcome in outcomes for record in outcome.records]


@click.command(short_help="Train heads on one encoder and compare them.")
@click.option("--heads", metavar="NAMES", help="Heads to compare, comma separated; default: the preset's.")
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a head, task or encoder of yours, for a quick try; repeatable.")  # fmt: skip
@click.option("--tasks", metavar="NAMES", help="Tasks to train together, comma separated; default: the preset's.")
@click.option("--seeds", metavar="N", help="Number of seeds per head, or the seeds themselves as 0,5,7.")
@click.option(
    "--preset",
    metavar="NAME",
    help="A shipped protocol: demo (the default), paper, strong or frozen.",
)
@click.option(
    "--protocol",
    type=click.Path(path_type=Path),
    help="A protocol of your own, as TOML; instead of --preset.",
)
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Change a field: pretrain.epochs=3, pooling=mean, cnn.dropout=0.1 …; repeatable.")  # fmt: skip
@click.option("--from-study", metavar="NAME",
              help="Train the best config of a study of benchkit tune, and the default, and compare.")  # fmt: skip
@click.option("--storage", metavar="URL", help="Where that study is; default: a journal under results/tune.")
@click.option("--data", metavar="DIR",
              help="Folder with the tasks' data, `hub` for what benchkit data fetch has fetched, or `demo`; default: "
              "the preset's.")  # fmt: skip
@click.option("--encoder", metavar="NAME|DIR",
              help="An encoder's name, the id of one that benchkit encoders fetch has fetched, or a folder in the "
              "Hugging Face layout.")  # fmt: skip
@click.option("--phases", metavar="NAMES", help="pretrain (encoder frozen), finetune (everything trained), or both.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    help="Of the encoder; auto: bf16 where the hardware has it.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where results go; default: results/runs/<preset>-<encoder>.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Cells that run at once; default: one per core, at most 4; 1 on a GPU.",
)
@click.option("--executor", metavar="NAME",
              help="Where cells run: local (in this process) or processes; default: by --jobs.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads per cell.")
@click.option("--cuda-graph/--no-cuda-graph", "cuda_graph", default=None,
              help="Capture steps as CUDA graphs and replay them; default: on a GPU.")  # fmt: skip
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True,
              help="Hand the encoder's layers to torch.compile where they are trained.")  # fmt: skip
@click.option("--feature-cache/--no-feature-cache", default=True,
              help="Store the frozen encoder's features, or encode each batch anew to compare.")  # fmt: skip
@click.option("--keep-encoder", is_flag=True,
              help="Also store each fine-tuned encoder, as large as it is, to predict with it.")  # fmt: skip
@click.option("--interference", is_flag=True,
              help="Also measure, once an epoch, how the tasks' gradients agree; changes no number.")  # fmt: skip
@click.option("--controls", is_flag=True,
              help="Also train the heads in vain: on shuffled labels, and on a random encoder.")  # fmt: skip
@click.option("--single-task", is_flag=True,
              help="Also train the heads on each task alone, and show what training together gains.")  # fmt: skip
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show the cells, what is done and cached, and the estimated time; train nothing.",
)
def run(**options: Any) -> None:
    """Train each head on the same encoder, through the same two phases, on the same batches, and compare them.

    \b
    benchkit run --heads baseline,recurrent,cnn
    benchkit run --preset paper --phases pretrain --data DIR --encoder DIR --seeds 3

    Finished cells are reused, so the same command goes on where it was stopped. Exit code 0: every cell has a result;
    1: some cells failed; 2: the request cannot be carried out.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    dry_run, study, storage = (options.pop(name) for name in ("dry_run", "from_study", "storage"))
    beside = {name: options.pop(name) for name in ("controls", "single_task")}
    if study is not None or storage is not None:
        run_study(study, storage, {**options, **beside, "dry_run": dry_run})
        return
    request = _request(options)

    from benchkit.cli.progress import Progress
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.session import Session

    progress = Progress(jobs=1)
    try:
        session = Session.open(request, load_plugins(request.head_files), progress)
        progress.jobs = session.plan.jobs
        if dry_run:
            _dry_run(session, **beside)
        else:
            _run(session, progress, **beside)
    except KeyboardInterrupt:
        progress.close()
        click.echo("benchkit: interrupted; the same command goes on from the last finished epoch", err=True)
        sys.exit(130)
    finally:
        progress.close()


def _request(options: dict[str, Any]) -> Request:
    from benchkit.experiment.config import Request, parse_seeds, split_names

    return Request(
        heads=split_names(options.pop("heads") or ""),
        tasks=split_names(options.pop("tasks") or ""),
        phases=split_names(options.pop("phases") or ""),
        seeds=parse_seeds(seeds) if (seeds := options.pop("seeds")) is not None else (),
        preset=options.pop("preset") or "",
        settings=tuple(options.pop("settings")),
        head_files=tuple(options.pop("head_files")),
        data=options.pop("data") or "",
        encoder=options.pop("encoder") or "",
        precision=options.pop("precision") or "",
        jobs=options.pop("jobs") or 0,
        executor=options.pop("executor") or "",
        **options,
    )


def _run(session: Session, progress: Any, controls: bool, single_task: bool) -> None:
    from benchkit.analysis.baselines import interference_section
    from benchkit.analysis.report import comparison_text, write_report
    from benchkit.analysis.tables import collect, render
    from benchkit.experiment.estimate import clock

    started = time.monotonic()
    vain, alone = sessions(session, controls, single_task)
    outcome = session.run(progress)
    progress.close()
    in_vain = run_all(vain, progress, "control, {}")
    each_alone = run_all(alone, progress, "{} alone")
    beside = {name: each.records for name, each in in_vain.items()}
    plan = session.plan
    click.echo(f"\n{_headline(session)}\n")
    results = collect(outcome.records, outcome.controls, outcome.tasks, plan.protocol.phases, beside)
    click.echo(comparison_text(results))
    if plan.interference:
        section = interference_section(outcome.records)
        click.echo(f"\n{render(section) if section else 'No two tasks share a weight: no interference.'}")
    if each_alone:
        echo_gains(session, outcome, alone, each_alone)
    write_report(plan.out, results, outcome.records, log=progress.say)
    spent = clock(time.monotonic() - started)
    count = f"{_count(len(outcome.records), 'cell')} ({outcome.reused} reused)"
    click.echo(f"\n{count} in {spent}; table, curves and cells are in {plan.out}")
    if plan.data == "demo":
        click.echo(
            "These data are synthetic and the encoder is small: a check that all works, not a finding. "
            "Real ones: benchkit data fetch all; benchkit encoders fetch ID; "
            "benchkit run --preset paper --data hub --encoder ID"
        )
    _exit([*outcome.records, *records_of(in_vain.values()), *records_of(each_alone.values())])


def _headline(session: Session) -> str:
    plan = session.plan
    protocol = plan.protocol
    sizes = session.workspace.data(plan.data, protocol)
    trained = ", ".join(f"{name} {len(splits['train']):,}" for name, splits in sizes.items())
    encoder = session.workspace.encoder(plan.encoder)
    return (
        f"{protocol.name}: {_count(len(plan.heads), 'head')} × {_count(len(plan.seeds), 'seed')} on {encoder.name} "
        f"({encoder.parameters / 1e6:.1f} M parameters, {plan.execution.precision}, {plan.execution.device}); "
        f"{' then '.join(protocol.phases)}; {protocol.pooling} pooling; train {trained}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _exit(records: Any) -> None:
    failed = [record for record in records if record.status == "failed"]
    for record in failed:
        click.echo(f"benchkit: error: {record.head} seed {record.seed}: {record.error}", err=True)
    if failed:
        kinds = {record.failure.kind for record in failed if record.failure}
        sys.exit(2 if kinds == {"out_of_memory"} else 1)


def _dry_run(session: Session, controls: bool, single_task: bool) -> None:
    from benchkit.experiment.estimate import describe

    vain, alone = sessions(session, controls, single_task)
    for each in (session, *vain.values(), *alone.values()):
        for line in describe(each):
            click.echo(line)
