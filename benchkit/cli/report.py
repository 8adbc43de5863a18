"""`benchkit report`, `plan`, `compare`, `repro`, `explain`: what stored cells show."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli import options
from benchkit.cli.output import labelled, say
from benchkit.cli.run import run
from benchkit.core.errors import UserError

if TYPE_CHECKING:
    from benchkit.core.record import Record

_folders = click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=options.DIR)
_task_file = options.head_file("A Python file with a task that is not installed; repeatable.")


@click.command(short_help="Compare finished runs: tables, and which differences are real.")
@_folders
@options.against()
@options.split("Split that heads are compared on; the table shows both.")
@click.option("--aso", is_flag=True, help="Also test almost stochastic order over seeds; needs many seeds.")
@click.option("--only", type=click.Choice(["scores", "verdicts"]),
              help="Show one of the two tables; default for csv: scores.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["terminal", "markdown", "csv", "json", "latex"]),
              default="terminal")  # fmt: skip
@click.option("--out", type=options.FILE, help="Write the report to this file instead of printing it.")
@click.option("--html", type=options.FILE, help="Also write one page: tables, charts, examples, provenance.")
@click.option("--texts/--no-texts", default=True, help="Show the texts of examples on the page, or only their ids.")
@click.option("--figures", type=options.DIR, help="Also write each plot as PNG and SVG.")
@_task_file
def report(folders: tuple[Path, ...], against: str | None, split: str, aso: bool, only: str | None, format_: Any,
           out: Path | None, html: Path | None, texts: bool, figures: Path | None,
           head_files: tuple[Path, ...]) -> None:  # fmt: skip
    """Report finished runs from their stored cells; nothing is trained.

    \b
    benchkit report results/runs/demo-embedded
    benchkit report results/runs/paper-* --against baseline --format latex --out table.tex
    benchkit report results/runs/paper-* --html report.html --figures figures

    Scores are means over seeds. Differences are tested for each pair of heads, over seeds and test examples. A head
    that was run with several settings is shown as several heads. Exit code 2: a folder has no usable cell, or the runs
    were scored on different data.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.analysis.comparisons import compare_all, read_predictions
    from benchkit.analysis.report import as_csv, as_json, as_text
    from benchkit.analysis.results import read_runs
    from benchkit.store.files import write_atomic

    stored = read_runs(folders, log=say, head_files=head_files)
    verdicts = compare_all(stored, split, against, aso=aso)
    if format_ == "csv":
        text = as_csv(stored, verdicts, only or "scores")
    elif format_ == "json":
        text = as_json(stored, verdicts)
    else:
        text = as_text(stored, verdicts, format_, only=only, against=against)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomic(out, text.encode())
        click.echo(f"wrote {out}")
    predictions = read_predictions(stored) if html or figures else {}
    if html:
        from benchkit.analysis.html import page

        write_atomic(html, page(stored, verdicts, predictions, texts=texts).encode())
        say(f"wrote {html}")
    if figures:
        from benchkit.analysis.plots import write_figures

        say(f"wrote {len(write_figures(stored, predictions, figures))} files to {figures}")


@click.command(short_help="Estimate how many seeds a difference needs, and their time.")
@_folders
@click.option("--difference", type=float, default=0.01, help="The difference to find, in the tasks' metrics.")
@click.option("--power", type=float, default=0.8, help="Probability of finding it, between 0.05 and 1.")
@options.against()
@options.split()
@_task_file
def plan(folders: tuple[Path, ...], difference: float, power: float, against: str | None, split: str,
         head_files: tuple[Path, ...]) -> None:  # fmt: skip
    """Power analysis from the variance in finished cells: seeds needed to find a difference, and their time.

    \b
    benchkit run --heads baseline,cnn --seeds 3
    benchkit plan results/runs/demo-embedded --difference 0.02 --power 0.9

    More seeds average out the randomness of training, but not the sampling of the test examples. If the test set is too
    small for the difference, the output says so. At least two seeds of two heads are needed; with three seeds the
    result is a rough estimate.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.analysis.comparisons import needs, plan_sections
    from benchkit.analysis.results import read_runs
    from benchkit.analysis.tables import render_all

    if not difference > 0:
        raise UserError(f"--difference takes a positive number, such as 0.01, not {difference:g}")
    if not 0.05 < power < 1:
        raise UserError(f"--power takes a number between 0.05 and 1, such as 0.8, not {power:g}")
    stored = read_runs(folders, log=say, head_files=head_files)
    found = needs(stored, difference, power, split, against)
    click.echo(render_all(plan_sections(stored, found, difference, power)), nl=False)


@click.command(short_help="Compare two runs, cell by cell; exit code 1 for a regression.")
@click.argument("a", metavar="A", type=options.DIR)
@click.argument("b", metavar="B", type=options.DIR)
@click.option("--fail-if", "conditions", multiple=True, metavar="CONDITION",
              help="Condition for a regression: sst.accuracy<-1.0, speed.train<-5%; repeatable.")  # fmt: skip
@click.option("--sure", is_flag=True, help="Fail only if the whole 95 % interval fulfils the condition.")
@click.option("--across", type=click.Choice(["data", "protocol", "machine", "encoder"]), multiple=True,
              help="A difference between the runs that is intended; repeatable.")  # fmt: skip
@options.split("Default: test, or dev where test is unlabelled.", default=None)
@_task_file
def compare(a: Path, b: Path, conditions: tuple[str, ...], sure: bool, across: tuple[str, ...], split: str | None,
            head_files: tuple[Path, ...]) -> None:  # fmt: skip
    """Compare run B with run A, pairing the cells with the same head and seed.

    \b
    benchkit compare results/runs/before results/runs/after --fail-if 'sst.accuracy<-1.0' --fail-if 'speed.train<-5%'

    A and B are folders that `benchkit run` wrote. A condition is [HEAD:]QUANTITY<NUMBER, with <, <=, > or >=, on B
    minus A. TASK.METRIC and mean.score are in points (hundredths of the metric): a change from 0.40 to 0.39 is -1.0.
    speed.train, speed.eval and memory.peak are in per cent of A, and the number has a %. A condition without a head is
    checked for every head. If a cell of a head has a number in A but not in B, the head fulfils every condition on it.

    Exit code 0: no condition holds. 1: a condition holds, which is a regression. 2: the runs cannot be compared. This
    includes runs that differ in data, protocol, machine or encoder, unless --across names the difference.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.analysis.compare import compare as compare_runs
    from benchkit.analysis.compare import judge, parse, section
    from benchkit.analysis.results import read_runs
    from benchkit.analysis.tables import render

    wanted = [parse(text) for text in conditions]  # before anything is read
    first, second = (read_runs([folder], log=say, head_files=head_files) for folder in (a, b))
    found = compare_runs(first, second, wanted, across=across, split=split or "")
    verdicts = judge(found, wanted, sure=sure)
    click.echo(f"A  {a}\nB  {b}\n\n{render(section(found))}")
    if verdicts:
        click.echo("\n" + "\n".join(f"{'✗' if each.holds else '✓'} {each.text}" for each in verdicts))
    if any(each.holds for each in verdicts):
        sys.exit(1)


@click.command(short_help="Compare a run with the numbers of the published report.")
@click.argument("folder", metavar="DIR", required=False, type=options.DIR)
@options.data("Folder with the tasks' data.")
@options.encoder("The report's is bert-base-uncased.")
@options.seeds("Number of seeds per head, or the seeds themselves as 0,5,7; default: 3.")
@options.phases("pretrain, finetune, or both, which is the default.")
@options.settings("Change a field, as in benchkit run; the output lists the changes; repeatable.")
@options.out("Where results go; default: results/runs/paper-<encoder>.")
@options.jobs("Cells that run at once.")
@options.dry_run()
@click.pass_context
def repro(context: click.Context, /, folder: Path | None, **given: Any) -> None:
    """Compare a run with the numbers of the report "miniBERT and Multitasking", on test and train.

    \b
    benchkit repro results/runs/paper-all-MiniLM-L6-v2
    benchkit repro --data DIR --encoder bert-base-uncased --dry-run

    With DIR, a finished run is read. Without DIR, `benchkit run --preset paper` is run first. This takes long: the
    report took 2 to 4 hours per head and phase on an A100. --dry-run estimates the time on this machine. Finished cells
    are reused.

    Each number is shown with the range that chance allows and a verdict. Below are the differences from the report in
    encoder, data and protocol. Exit code 0: the comparison was made, whatever its verdicts. 1: some cells failed. 2:
    there is nothing to compare.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.analysis.baselines import agreement_section, agreements, deviations, published
    from benchkit.analysis.results import read_runs
    from benchkit.analysis.tables import render
    from benchkit.store.cells import RUNS

    if folder is not None and (without := options.flags(given)):
        raise UserError(f"a DIR is read and not run: leave out {without}, or DIR")
    code = 0
    if folder is None:
        folder = given.pop("out") or RUNS / f"paper-{Path(given['encoder'] or '').name}"
        if given["encoder"] and given["data"] and not given["dry_run"]:
            say("Running the preset paper: long work. A run that is stopped goes on with the same command.")
        try:
            context.invoke(run, preset="paper", out=folder, **given)
        except SystemExit as stop:
            if stop.code != 1:
                raise
            code = 1  # some cells failed; the others are shown all the same
        if given["dry_run"]:
            return
        click.echo()
    numbers, stored = published(), read_runs([folder], log=say)
    rows = agreements(stored, numbers)
    click.echo(render(agreement_section(rows, list(deviations(stored, numbers, options.load_plugins())), numbers)))
    sys.exit(code)


@click.command(short_help="Show what a cell's key is made of, and why it is reused or run again.")
@click.argument("cell", metavar="CELL")
@click.argument("other", metavar="CELL", required=False)
@options.out("The run that a key belongs to; default: all of results/runs.")
@options.head_file("The file that the cell's head came from; repeatable.")
def explain(cell: str, other: str | None, out: Path | None, head_files: tuple[Path, ...]) -> None:
    """Show what a cell's key is made of, and how it differs from another cell or from a rerun.

    \b
    benchkit explain 1d59892e
    benchkit explain 1d59892e 8d215a44 --out results/runs/demo-embedded

    A CELL is the cell's folder, or the beginning of its key. A single cell is compared with a rerun of the same
    request: its head, data, encoder and benchkit's own code are read again. For a run that is not stored yet, `benchkit
    run … --dry-run` shows how each cell differs from the nearest stored one.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.store.cells import find_cell, open_record

    folders = [find_cell(name, out) for name in (cell, other) if name is not None]
    records = [open_record(folder, say) for folder in folders]
    for record, folder in zip(records, folders, strict=True):
        state = f"{record.status}: {record.error}" if record.error else record.status
        click.echo(f"cell {record.key}: {record.head} seed {record.seed}, {state}\nin {folder}")
    click.echo()
    if other is None:
        _explain_one(records[0], folders[0], head_files)
    else:
        _explain_pair(records, folders)


def _explain_one(record: Record, folder: Path, head_files: tuple[Path, ...]) -> None:
    """The parts of a cell's key, what a rerun would change, and the nearest cell of the same head and seed."""
    from benchkit.core.record import differences, nearest, parts_of, shown
    from benchkit.experiment.explain import today
    from benchkit.experiment.workspace import Workspace
    from benchkit.store.cells import CellStore
    from benchkit.store.files import cache_root

    for name, value in record.identity.items():
        _echo_part(name, _part(name, value, record))
    _echo_part("made by", [shown({name: each for name in _ENVIRONMENT if (each := record.environment.get(name))})])
    now, unknown = today(record, Workspace(options.load_plugins(head_files), cache_root(), say))
    found = differences(parts_of(record), now)
    if found:
        verdict = "A rerun of the same request would train it again, since this changed:"
    elif record.status == "failed":
        verdict = "Nothing in the key changed; the same request would try it again, since it failed."
    elif unknown:
        verdict = "Nothing in the key changed as far as can be seen; if so, the same request reuses it."
    else:
        verdict = "Nothing in the key changed: the same request reuses it."
    click.echo(f"\n{verdict}")
    _echo_list("", found)
    _echo_list("Not looked at:", unknown)
    store = CellStore(folder.parent, log=say)
    others = [each for key in store.keys() if key != record.key and (each := store.load(key))]  # noqa: SIM118
    near = nearest(parts_of(record), others)
    if near is not None:
        title = f"Nearest cell of the same head and seed in this run, {near.key}, differs in:"
        _echo_list(title, differences(parts_of(record), parts_of(near)))


def _explain_pair(records: list[Record], folders: list[Path]) -> None:
    from benchkit.core.record import differences, parts_of

    a, b = records
    found = differences(parts_of(a), parts_of(b))
    if not found and folders[0] == folders[1]:
        click.echo("This is one and the same cell.")
    elif not found:
        click.echo("The two have one key: a run would reuse either for the other.")
    _echo_list("The second has a key of its own, since it differs from the first in:", found)
    pairs = ((name, a.environment.get(name, ""), b.environment.get(name, "")) for name in _ENVIRONMENT)
    other = [f"{name}: {old or 'unknown'} → {new or 'unknown'}" for name, old, new in pairs if old != new]
    _echo_list("In no key, but different too:", other)


def _echo_list(title: str, lines: Sequence[str]) -> None:
    if lines:
        click.echo("\n".join([*filter(None, [title]), *(f"  {line}" for line in lines)]))


# Explains a number and is in no key; the rest of the environment is in the key too.
_ENVIRONMENT = ("git", "python", "platform", "processor", "device")


def _echo_part(label: str, lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(labelled(f"  {label:<11}", line))
        label = ""


def _part(name: str, value: Any, record: Record) -> Iterator[str]:
    """A part of a key as lines: its plain fields, then its tables."""
    from benchkit.analysis.results import protocol_fields
    from benchkit.core.record import parts_of, shown

    known = parts_of(record)
    if name == "head":
        value = {**value, "files": list(record.sources.get("head", {}))}
    elif name == "protocol":
        value = protocol_fields(record.identity)
    elif name == "data":
        splits = {task: {split: known.splits.get(f"{task}.{split}", digest) for split, digest in each.items()}
                  for task, each in value.items()}  # fmt: skip
        value = {"from": record.data.get("name", "unknown"), **splits}
    elif name == "encoder":
        value = {"name": known.encoder, "fingerprint": value}
    if isinstance(value, list):
        yield from map(shown, value)
    elif isinstance(value, Mapping):
        plain = {field: each for field, each in value.items() if not isinstance(each, Mapping)}
        yield shown(plain)
        yield from (f"{field}: {shown(each)}" for field, each in value.items() if isinstance(each, Mapping))
    else:
        yield shown(value)
