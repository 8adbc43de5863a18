"""`benchkit speed`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchkit.inspect.heads import Setup
    from benchkit.speed import Result


@click.command(short_help="Time heads on an encoder: throughput, latency, memory, FLOPs.")
@click.option("--heads", metavar="NAMES", help="Heads to compare, comma separated; default: the preset's.")
@click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="A Python file with a head, task or encoder of yours; repeatable.")  # fmt: skip
@click.option("--tasks", metavar="NAMES", help="A step is a batch of each of these; default: the preset's.")
@click.option("--preset", metavar="NAME", help="Whose pooling, layers, pair input and head settings; default: demo.")
@click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE",
              help="Change a field: cnn.channels=16, pooling=cls …; repeatable.")  # fmt: skip
@click.option("--encoder", metavar="NAME|DIR", help="An encoder's name, or a folder in the Hugging Face layout.")
@click.option("--mode", "modes", metavar="NAMES", default="infer,train", show_default=True,
              help="infer: word pieces to outputs; train: a step of encoder and head; head: a step on stored "
                   "features; encode: word pieces to features.")  # fmt: skip
@click.option("--batch-sizes", metavar="N,…", default="32", show_default=True, help="Examples of each task.")
@click.option("--seq-lens", metavar="N,…", default="16", show_default=True,
              help="Word pieces of every sentence; mixed: of different lengths, as in real data.")  # fmt: skip
@click.option("--precision", metavar="NAMES", default="auto", show_default=True,
              help="Of the encoder: fp32, bf16, auto (bf16 where the hardware has it), or several.")  # fmt: skip
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True, help="Use torch.compile.")
@click.option("--cuda-graph/--no-cuda-graph", "graph", default=False, show_default=True,
              help="Capture a step as a CUDA graph and time its replays; needs a GPU.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
@click.option("--warmup", type=click.IntRange(min=1), default=10, show_default=True, help="Steps before any is timed.")
@click.option("--min-iterations", type=click.IntRange(min=1), default=10, show_default=True,
              help="Time each head for at least so many steps,")  # fmt: skip
@click.option("--min-time", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True,
              help="and for at least so many seconds, at each point.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=2), default=8, show_default=True,
              help="Parts of that time; everything is built anew for each.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", default="results/speed", show_default=True,
              help="Where the CSV, the JSON and the picture go.")  # fmt: skip
def speed(**options: Any) -> None:
    """Time heads in turns (A B … B A), so that whatever else the machine does falls on all of them.

    \b
    benchkit speed --heads baseline,recurrent,cnn
    benchkit speed --heads cnn --mode infer --batch-sizes 1,8,64 --seq-lens 16,64,128 --encoder DIR

    Inputs are made up and heads are untrained: neither changes how long a step takes. A batch is never made smaller;
    what does not fit has a row that says so. Exit code 1: some heads failed.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.config import Request, split_names
    from benchkit.experiment.estimate import clock
    from benchkit.inspect.heads import Setup
    from benchkit.speed import Limits, render, write
    from benchkit.speed.measure import measure
    from benchkit.speed.setup import grid

    request = Request(
        heads=split_names(options["heads"] or ""),
        head_files=options["head_files"],
        tasks=split_names(options["tasks"] or ""),
        preset=options["preset"] or "",
        settings=options["settings"],
        encoder=options["encoder"] or "",
        device=options["device"],
        threads=options["threads"],
    )
    _use_threads(options["threads"])
    setup = Setup.open(request, load_plugins(request.head_files))
    points = grid(
        split_names(options["modes"]),
        split_names(options["batch_sizes"]),
        split_names(options["seq_lens"]),
        split_names(options["precision"]),
        setup.device,
        compiled=options["compiled"],
        graph=options["graph"],
        longest=setup.encoder.config.max_position_embeddings,
    )
    limits = Limits(options["warmup"], options["min_iterations"], options["min_time"], options["repeats"])
    click.echo(_headline(setup, len(points), clock(len(points) * len(setup.plan.heads) * limits.seconds)), err=True)
    result = measure(setup, points, limits, lambda line: click.echo(line, err=True))
    files = write(result, setup, limits, options["out"])
    click.echo(render(result, [shape.name for shape in setup.shapes]))
    click.echo("\n" + "\n".join(str(path) for path in files))
    _exit(result)


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _headline(setup: Setup, points: int, left: str) -> str:
    plan, encoder = setup.plan, setup.encoder
    heads, several = len(plan.heads), "s" * (points != 1)
    return (
        f"{heads} head{'s' * (heads != 1)} on {encoder.name} ({encoder.parameters / 1e6:.1f} M parameters, "
        f"{plan.execution.device}), {points} point{several}: at least {left}"
    )


def _exit(result: Result) -> None:
    failed = [row for row in result.rows if row.error]
    for row in failed:
        click.echo(f"benchkit: error: {row.name}: {row.point}: {row.error}", err=True)
    if failed:
        sys.exit(1)
