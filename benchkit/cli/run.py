"""`benchkit run`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli import options
from benchkit.cli.output import counted, fail
from benchkit.cli.progress import shown
from benchkit.core.errors import UserError

if TYPE_CHECKING:
    from benchkit.cli.progress import Progress
    from benchkit.experiment.session import Outcome, Session

_EPOCH = "from the last finished epoch"
# What a study has settled; --data and --encoder may say where these are on another machine.
_SETTLED = ("heads", "tasks", "phases", "preset", "protocol", "settings", "precision", "dry_run", "interference",
            "controls", "single_task")  # fmt: skip
_DEMO = """These data are synthetic and the encoder is small: a check that all works, not a finding. \
Real ones: benchkit data fetch all; benchkit encoders fetch ID; \
benchkit run --preset paper --data hub --encoder ID"""


@click.command(short_help="Train heads on one encoder and compare them.")
@options.heads()
@options.head_file("A Python file with a head, task or encoder of yours, for a quick try; repeatable.")
@options.tasks()
@options.seeds()
@options.preset()
@options.protocol()
@options.settings("Change a field: pretrain.epochs=3, pooling=mean, cnn.dropout=0.1 …; repeatable.")
@click.option("--from-study", "study", metavar="NAME", help="Train a study's best config and the default, and compare.")
@click.option("--storage", metavar="URL", help="Storage of that study; default: a journal under results/tune.")
@options.data("Folder with the tasks' data, `hub` for what was fetched, or `demo`; default: the preset's.")
@options.encoder("An encoder's name, the id of a fetched one, or a folder in the Hugging Face layout.")
@options.phases("pretrain (encoder frozen), finetune (everything trained), or both.")
@options.device()
@options.precision()
@options.out("Where results go; default: results/runs/<preset>-<encoder>.")
@options.jobs("Cells that run at once; default: one per core, at most 4; 1 on a GPU.")
@options.executor("Where cells run: local (in this process) or processes; default: by --jobs.")
@options.threads("CPU threads per cell.")
@options.cuda_graph()
@options.compiled()
@click.option("--feature-cache/--no-feature-cache", default=True,
              help="Store the frozen encoder's features, or encode each batch again (for comparison).")  # fmt: skip
@click.option("--keep-encoder", type=click.Choice(["all", "best", "none"]), default="best", show_default=True,
              help="Fine-tuned encoders to store for predictions; best: that of each head's best seed.")  # fmt: skip
@click.option("--encoder-dtype", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True,
              help="Type in which fine-tuned encoders are stored.")  # fmt: skip
@click.option("--interference", is_flag=True, help="Also measure after each epoch how far the tasks' gradients agree.")
@click.option("--controls", is_flag=True, help="Also train on shuffled labels, and on a random encoder.")
@click.option("--single-task", is_flag=True, help="Also train on each task alone; show the gain of training together.")
@options.dry_run("Show the cells, which are finished or cached, and the estimated time; train nothing.")
def run(study: str | None, storage: str | None, **given: Any) -> None:
    """Train each head on the same encoder, through the same two phases, on the same batches, and compare them.

    \b
    benchkit run --heads baseline,recurrent,cnn
    benchkit run --preset paper --phases pretrain --data DIR --encoder DIR --seeds 3

    Finished cells are reused, so the same command resumes a stopped run. Exit code 0: every cell was trained. 1: some
    cells failed, or all diverged. 2: the request cannot be carried out.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    if study is not None or storage is not None:
        _run_study(study, storage, given)
        return
    dry_run, *companions = (given.pop(name) for name in ("dry_run", "controls", "single_task"))
    request = options.request(**given)

    from benchkit.experiment.estimate import describe
    from benchkit.experiment.session import Session

    with shown(_EPOCH) as progress:
        session = Session.open(request, options.load_plugins(request.head_files), progress)
        progress.jobs = session.plan.jobs
        controls, alone = _companions(session, *companions)
        if dry_run:
            for each in (session, *controls.values(), *alone.values()):
                click.echo("\n".join(describe(each)))
        else:
            _run(session, progress, controls, alone)


def _run_study(study: str | None, storage: str | None, given: dict[str, Any]) -> None:
    """Train a study's best config and its default, and print how they compare."""
    from benchkit.tuning.report import final_note, final_table
    from benchkit.tuning.search import run_again

    if study is None:
        raise UserError("--storage says where a study is: name it with --from-study")
    if settled := options.flags({name: given[name] for name in _SETTLED}):
        raise UserError(f"--from-study takes everything from the study, so leave out {settled}")
    if given["executor"] == "local":
        raise UserError("--from-study trains in processes of its own: leave out --executor local")
    with shown(_EPOCH) as progress:
        progress.jobs = given["jobs"] or 1
        final, out = run_again(study, storage or "", given["seeds"] or (), given, progress)
    notes = "".join(f"\n  {line}" for line in final_note(final))
    click.echo(f"\n{final_table(final)}{notes}\n\ncells are in {out}")
    if not final.differences:
        sys.exit(1)


def _companions(session: Session, controls: bool, single_task: bool) -> tuple[dict[str, Session], dict[str, Session]]:
    """The trained controls by what is done, and each task alone by its name, as far as they are asked for.

    Raises:
        UserError: there is only one task.
    """
    from benchkit.experiment.companions import control_plans, single_task_plans

    plan = session.plan
    of_controls = control_plans(plan) if controls else {}
    alone = single_task_plans(plan) if single_task else {}
    first, second = ({name: session.companion(each) for name, each in found.items()} for found in (of_controls, alone))
    return first, second


def _run(session: Session, progress: Progress, controls: dict[str, Session], alone: dict[str, Session]) -> None:
    """Run all cells and those of the companion runs, print and write what was found."""
    from benchkit.analysis.baselines import interference_section
    from benchkit.analysis.report import comparison_text, write_report
    from benchkit.analysis.tables import collect, render
    from benchkit.experiment.estimate import clock

    def companion(each: Session, title: str) -> Outcome:
        """The outcome of another run, with tables in a folder of its own."""
        progress.say(f"{title}: {len(each.cells)} cells")
        outcome = each.run(progress)
        progress.close()
        phases = each.plan.protocol.phases
        results = collect(outcome.records, outcome.controls, outcome.tasks, phases)
        write_report(each.plan.out, results, outcome.records, log=progress.say)
        return outcome

    started, plan = time.monotonic(), session.plan
    outcome = session.run(progress)
    progress.close()
    of_controls = {name: companion(each, f"control, {name}") for name, each in controls.items()}
    of_alone = {name: companion(each, f"{name} alone") for name, each in alone.items()}
    trained = {name: each.records for name, each in of_controls.items()}
    phases = plan.protocol.phases
    results = collect(outcome.records, outcome.controls, outcome.tasks, phases, trained)
    click.echo(f"\n{_headline(session)}\n\n{comparison_text(results)}")
    if plan.interference:
        section = interference_section(outcome.records)
        click.echo(f"\n{render(section) if section else 'No two tasks share a weight: no interference.'}")
    if of_alone:
        _echo_gains(session, outcome, alone, of_alone)
    write_report(plan.out, results, outcome.records, log=progress.say)
    cells, spent = counted(len(outcome.records), "cell"), clock(time.monotonic() - started)
    click.echo(f"\n{cells} ({outcome.reused} reused) in {spent}; table, curves and cells are in {plan.out}")
    if plan.data == "demo":
        click.echo(_DEMO)
    _exit([outcome, *of_controls.values(), *of_alone.values()])


def _headline(session: Session) -> str:
    plan, protocol = session.plan, session.plan.protocol
    sizes = session.workspace.data(plan.data, protocol)
    trained = ", ".join(f"{name} {len(splits['train']):,}" for name, splits in sizes.items())
    encoder = session.workspace.encoder(plan.encoder)
    return (
        f"{protocol.name}: {counted(len(plan.heads), 'head')} × {counted(len(plan.seeds), 'seed')} on {encoder.name} "
        f"({encoder.parameters / 1e6:.1f} M parameters, {plan.execution.precision}, {plan.execution.device}); "
        f"{' then '.join(protocol.phases)}; {protocol.pooling} pooling; train {trained}"
    )


def _echo_gains(session: Session, outcome: Outcome, runs: dict[str, Session], alone: dict[str, Outcome]) -> None:
    """The table `together − alone`."""
    from benchkit.analysis.baselines import gains, gains_section
    from benchkit.analysis.tables import render

    stores = [(outcome, session.store), *((each, runs[name].store) for name, each in alone.items())]
    folders = {record.key: store.root / record.key for each, store in stores for record in each.records}
    baselines = {name: each.records for name, each in alone.items()}
    section = gains_section(gains(outcome.records, baselines, outcome.tasks, folders))
    if section:
        click.echo(f"\n{render(section)}")


def _exit(outcomes: list[Outcome]) -> None:
    failed = [record for outcome in outcomes for record in outcome.records if record.status == "failed"]
    kinds = {record.failure.kind for record in failed if record.failure}
    code = 2 if kinds == {"out_of_memory"} else 1
    fail((f"{record.head} seed {record.seed}: {record.error}" for record in failed), code)
    records = outcomes[0].records
    if all(record.status == "diverged" for record in records):
        fail([f"no cell has a result: all diverged: {records[0].error}"], 1)
