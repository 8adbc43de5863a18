"""`benchkit compare`: a gate for regressions."""

from __future__ import annotations

from pathlib import Path

import click

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
    from benchkit.compare.conditions import parse
    from benchkit.compare.runs import compare as compare_runs
    from benchkit.compare.runs import judge
    from benchkit.compare.table import render, render_verdicts
    from benchkit.report.stored import read_runs

    wanted = [parse(text) for text in conditions]  # before anything is read
    first, second = (read_runs([folder], log=_log, head_files=head_files) for folder in (a, b))
    found = compare_runs(first, second, wanted, across=across, split=split or "")
    verdicts = judge(found, wanted, sure=sure)
    click.echo(f"A  {a}\nB  {b}\n\n{render(found)}")
    if not verdicts:
        return
    click.echo()
    for line in render_verdicts(verdicts):
        click.echo(line)
    if any(each.holds for each in verdicts):
        raise SystemExit(1)


def _log(line: str) -> None:
    click.echo(line, err=True)
