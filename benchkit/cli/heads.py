"""`benchkit heads`, `speed` and `plugins`: what there is to compare, and how fast it is."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli import options
from benchkit.cli.output import counted, echo_json, fail, marked, say
from benchkit.core.errors import UserError

if TYPE_CHECKING:
    from benchkit.core.head import HeadSpec
    from benchkit.core.plugins import Plugins


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    encoder = options.encoder("The encoder whose features the heads read.", default="embedded")
    tasks = options.tasks("Tasks to build for, comma separated; default: the demo's.")
    return options.head_file("A Python file with a head of yours; repeatable.")(encoder(tasks(command)))


@click.group(invoke_without_command=True, short_help="List heads; show, check or start one.")
@_common
@click.pass_context
def heads(context: click.Context, /, **given: Any) -> None:
    """List the heads: their features, their number of parameters on this encoder, and their plugins."""
    if context.invoked_subcommand is not None:
        return
    from benchkit.inspect.heads import Setup, render_heads

    plugins = options.load_plugins(given["head_files"])
    names = tuple(sorted(plugins.heads))
    if not names:
        raise UserError("there is no head: see benchkit plugins")
    setup = Setup.open(options.request(heads=names, device="cpu", **given), plugins)
    click.echo(render_heads(setup))


@heads.command(short_help="Show a head's layers, parameters and settings, or draw it.")
@click.argument("head", metavar="NAME|FILE", required=False)
@_common
@options.settings()
@click.option("--svg", type=options.FILE, help="Write a drawing of the head as a standalone SVG.")
@click.option("--mermaid", is_flag=True, help="Print only a Mermaid flowchart.")
def show(head: str | None, head_files: tuple[Path, ...], svg: Path | None, mermaid: bool, **given: Any) -> None:
    """Show a head: its layers with the shapes of their outputs, its parameters, its settings.

    \b
    benchkit heads show cnn --set cnn.channels=16
    benchkit heads show my_head.py --svg my_head.svg

    The head is built and run once for each task, on made-up features of the encoder's size.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.inspect.diagram import mermaid as as_mermaid
    from benchkit.inspect.diagram import svg as as_svg
    from benchkit.inspect.heads import Setup, render_head
    from benchkit.store.files import write_atomic

    if head and head.endswith(".py"):
        head_files, head = (*head_files, Path(head)), None
    plugins = options.load_plugins(head_files)
    names = (head,) if head else _of_files(plugins, head_files)
    if not names:
        raise UserError(f"name a head (known: {', '.join(sorted(plugins.heads))}), or give a file that has one")
    if svg and len(names) > 1:
        raise UserError(f"--svg draws one head; name one of {', '.join(names)}")
    setup = Setup.open(options.request(heads=names, device="cpu", **given), plugins)
    shown = [setup.shown(name) for name in names]
    if svg:
        write_atomic(svg, as_svg(shown[0].figure).encode())
    click.echo("\n\n".join(as_mermaid(each.figure) if mermaid else render_head(each) for each in shown))


def _of_files(plugins: Plugins, files: tuple[Path, ...]) -> tuple[str, ...]:
    """The names of the heads that come from files."""
    return tuple(name for (kind, name), owner in plugins.owners.items() if kind == "head" and owner in map(str, files))


@heads.command()
@click.argument("head", metavar="NAME|FILE")
def check(head: str) -> None:
    """Check that a head meets the contract: shapes, gradients, padding, seeds and more, in a few seconds.

    Give the name of an installed head, or a Python file to check every head in it. benchkit.testing.HeadContract has
    the same checks as pytest tests. Exit code 0: all passed. 1: some failed. 2: there is no such head or file.
    """
    path = Path(head)
    files = (path,) if path.suffix == ".py" or path.is_file() else ()
    plugins = options.load_plugins(files)
    names = _of_files(plugins, files) if files else (head,)
    if not names:
        raise UserError(f"{path} offers no head: return a HeadSpec from a function benchkit_heads() marked @hookimpl")
    specs = [plugins.head(name) for name in names]  # a name nobody has is told before torch is loaded
    failed = [spec for spec in specs if not _passes(spec)]
    if failed:
        raise SystemExit(1)


def _passes(spec: HeadSpec) -> bool:
    """Print a head's verdicts as they come; whether none is a failure."""
    from shutil import get_terminal_size

    from benchkit.testing import CHECKS, check_head

    started, states = time.monotonic(), Counter[str]()
    width, columns = max(len(each.name) for each in CHECKS), max(60, get_terminal_size((100, 24)).columns)
    click.echo(f"{click.style(spec.name, bold=True)}  {spec.summary}")
    for verdict in check_head(spec):
        states[verdict.status] += 1
        text = f"skipped: {verdict.reason}" if verdict.status == "skipped" else verdict.reason or verdict.description
        click.echo(marked(verdict.status, f"{verdict.check:<{width}}", text, columns))
    words = {"ok": "passed", "failed": "failed", "skipped": "skipped"}
    total = ", ".join(f"{states[state]} {word}" for state, word in words.items() if states[state])
    click.echo(f"{total} in {time.monotonic() - started:.1f} s")
    return not states["failed"]


@heads.command()
@click.argument("name")
@click.option("--dir", "folder", type=options.DIR, default=".", help="Parent folder of the package's folder.")
def new(name: str, folder: Path) -> None:
    """Write a package benchkit-NAME with a small working head: module, test, README, licence, CI.

    The package can be installed and run as it is, and passes its test. Put your own head into its module. NAME is the
    head's name, such as `my-head`.
    """
    from benchkit.testing.scaffold import check_name, write_package

    plugins = options.load_plugins()
    names = check_name(name, {*plugins.heads, *plugins.tasks, *(plugin.name for plugin in plugins.plugins)})
    place = write_package(names, folder)
    commands = "".join(f"\n    {line}" for line in next_commands(name, place))
    click.echo(f"wrote {place}; your head goes into {names.module}.py. Next:\n{commands}")


def next_commands(name: str, place: Path) -> list[str]:
    """What to type after the package was written, from installing it to the table."""
    return [
        f"cd {shlex.quote(str(place))}",
        "pip install -e '.[test]'",
        "pytest",
        f"benchkit heads check {name}",
        f"benchkit run --heads {name},baseline --phases pretrain",
    ]


@click.command(short_help="List installed plugins, and which are broken.")
@options.head_file("A Python file with a head of yours, listed beside the plugins; repeatable.")
@options.as_json()
def plugins(head_files: tuple[Path, ...], as_json: bool) -> None:
    """List every plugin: distribution and version, state, what it adds through which hooks, and file.

    A plugin that is broken, or that uses another plugin's name, is listed with its error. The exit code is 0 even then.
    BENCHKIT_PLUGINS=NAME,NAME loads only the named plugins.
    """
    from benchkit.inspect import plugins_as_data, render_plugins

    found = options.load_plugins(head_files, strict=False)
    if as_json:
        echo_json(plugins_as_data(found))
    else:
        click.echo(render_plugins(found))


@click.command(short_help="Time heads on an encoder: throughput, latency, memory, FLOPs.")
@options.heads()
@options.head_file()
@options.tasks("A step is a batch of each of these; default: the preset's.")
@options.preset("Whose pooling, layers, pair input and head settings; default: demo.")
@options.settings("Change a field: cnn.channels=16, pooling=cls …; repeatable.")
@options.encoder()
@click.option("--mode", "modes", type=options.NAMES, default="infer,train",
              help="infer: word pieces to outputs; train: a step of encoder and head; head: a step on stored "
                   "features; encode: word pieces to features.")  # fmt: skip
@click.option("--batch-sizes", type=options.NAMES, metavar="N,…", default="32", help="Examples of each task.")
@click.option("--seq-lens", type=options.NAMES, metavar="N,…", default="16",
              help="Word pieces of every sentence; mixed: of different lengths, as in real data.")  # fmt: skip
@click.option("--precision", type=options.NAMES, default="auto",
              help="Of the encoder: fp32, bf16, auto (bf16 where the hardware has it), or several.")  # fmt: skip
@options.compiled("Use torch.compile.")
@click.option("--cuda-graph/--no-cuda-graph", "graph", default=False, help="Time replays of a CUDA graph; needs a GPU.")
@options.device()
@options.threads()
@click.option("--warmup", type=options.POSITIVE, default=10, help="Untimed steps at the start.")
@click.option("--min-iterations", type=options.POSITIVE, default=10,
              help="Time each head for at least this many steps at each point.")  # fmt: skip
@click.option("--min-time", type=click.FloatRange(min=0, min_open=True), default=10.0,
              help="Time each head for at least this many seconds at each point.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=2), default=8,
              help="Parts that this time is split into; the step is rebuilt for each.")  # fmt: skip
@options.out("Where the CSV, the JSON and the picture go.", default="results/speed")
def speed(modes: tuple[str, ...], batch_sizes: tuple[str, ...], seq_lens: tuple[str, ...], precision: tuple[str, ...],
          compiled: bool, graph: bool, warmup: int, min_iterations: int, min_time: float, repeats: int, out: Path,
          **given: Any) -> None:  # fmt: skip
    """Time heads in turns (A B … B A), so that other load on the machine affects all of them.

    \b
    benchkit speed --heads baseline,recurrent,cnn
    benchkit speed --heads cnn --mode infer --batch-sizes 1,8,64 --seq-lens 16,64,128 --encoder DIR

    Inputs are random and heads are untrained; neither changes the time of a step. A batch is never made smaller. If it
    does not fit into memory, its row says so. Exit code 1: some heads failed.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    import torch

    from benchkit.experiment.estimate import clock
    from benchkit.inspect.heads import Setup
    from benchkit.speed import Limits, render, write
    from benchkit.speed.measure import measure
    from benchkit.speed.setup import grid

    torch.set_num_threads(given["threads"])
    setup = Setup.open(options.request(**given), options.load_plugins(given["head_files"]))
    points = grid(modes, batch_sizes, seq_lens, precision, setup.device, compiled=compiled, graph=graph,
                  longest=setup.encoder.config.max_position_embeddings)  # fmt: skip
    limits = Limits(warmup, min_iterations, min_time, repeats)
    encoder, plan = setup.encoder, setup.plan
    say(
        f"{counted(len(plan.heads), 'head')} on {encoder.name} ({encoder.parameters / 1e6:.1f} M parameters, "
        f"{plan.execution.device}), {counted(len(points), 'point')}: "
        f"at least {clock(len(points) * len(plan.heads) * limits.seconds)}"
    )
    result = measure(setup, points, limits, say)
    files = write(result, setup, limits, out)
    click.echo(render(result, [shape.name for shape in setup.shapes]))
    click.echo("\n" + "\n".join(str(path) for path in files))
    fail(f"{row.name}: {row.point}: {row.error}" for row in result.rows if row.error)
