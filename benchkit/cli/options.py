"""Options that several commands have, their types, and the request that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from benchkit.core.plugins import Plugins
    from benchkit.experiment.config import Request

Command = TypeVar("Command", bound=Callable[..., Any])


class _Parsed(click.ParamType):  # type: ignore[type-arg] # generic in newer releases only
    """Text that a function of `benchkit.experiment.config` reads; its name is what a help page shows."""

    def __init__(self, name: str, function: str) -> None:
        self.name, self.function = name, function

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str) or (ctx and ctx.resilient_parsing):  # shell completion needs no value, nor torch
            return value
        from benchkit.experiment import config

        return getattr(config, self.function)(value)


def _path(name: str) -> click.Path:
    kind = click.Path(path_type=Path)
    kind.name = name
    return kind


NAMES, SEEDS = _Parsed("names", "split_names"), _Parsed("n", "parse_seeds")
FILE, DIR, PATH = _path("file"), _path("dir"), _path("path")
POSITIVE, AT_ONCE = click.IntRange(min=1), click.IntRange(1, 1024)


def _shared(*names: str, **settings: Any) -> Callable[..., Callable[[Command], Command]]:
    """A function that makes an option. Called with a text, it uses the text as help."""

    def make(text: str = "", **changes: Any) -> Callable[[Command], Command]:
        return click.option(*names, **{**settings, **changes, **({"help": text} if text else {})})

    return make


heads = _shared("--heads", type=NAMES, help="Heads to compare, comma separated; default: the preset's.")
head_file = _shared("--head-file", "head_files", multiple=True, type=FILE,
                    help="A Python file with a head, task or encoder of yours; repeatable.")  # fmt: skip
tasks = _shared("--tasks", type=NAMES, help="Tasks to train together, comma separated; default: the preset's.")
seeds = _shared("--seeds", type=SEEDS, help="Number of seeds per head, or the seeds themselves as 0,5,7.")
preset = _shared("--preset", metavar="NAME", help="A shipped protocol: demo (the default), paper, strong or frozen.")
protocol = _shared("--protocol", type=PATH, help="A protocol of your own, as TOML; instead of --preset.")
settings = _shared("--set", "settings", multiple=True, metavar="FIELD=VALUE",
                   help="Change a field: cnn.channels=16, pooling=cls …; repeatable.")  # fmt: skip
data = _shared("--data", metavar="DIR", help="Folder with the tasks' data, `hub`, or `demo`; default: the preset's.")
encoder = _shared("--encoder", metavar="NAME|DIR", help="An encoder's name, or a folder in the Hugging Face layout.")
phases = _shared("--phases", type=NAMES)
device = _shared("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
precision = _shared("--precision", type=click.Choice(["auto", "fp32", "bf16"]),
                    help="Precision of the encoder; auto: bf16 if the hardware supports it.")  # fmt: skip
jobs = _shared("--jobs", type=AT_ONCE)
executor = _shared("--executor", metavar="NAME")
threads = _shared("--threads", type=AT_ONCE, default=1, help="CPU threads.")
cuda_graph = _shared("--cuda-graph/--no-cuda-graph", "cuda_graph", default=None,
                     help="Capture steps as CUDA graphs and replay them; default: on a GPU.")  # fmt: skip
compiled = _shared("--compile/--no-compile", "compiled", default=False,
                   help="Use torch.compile for the encoder's layers when they are trained.")  # fmt: skip
out = _shared("--out", type=DIR, help="Where results go.")
dry_run = _shared("--dry-run", is_flag=True, help="Show the cells and the estimated time; train nothing.")
split = _shared("--split", type=click.Choice(["test", "dev"]), default="test")
against = _shared("--against", metavar="HEAD", help="Compare each head with this one; default: each with each.")
as_json = _shared("--json", "as_json", is_flag=True, help="A list of objects, for programs.")


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def flags(options: Mapping[str, Any]) -> str:
    """The options that have a value, as typed: `--heads, --set`; "" if there are none."""
    written = {"settings": "set", "source": "input"}
    named = [name for name, value in options.items() if value or (value == 0 and value is not False)]
    return ", ".join(f"--{written.get(name, name).replace('_', '-')}" for name in named)


def load_plugins(files: Iterable[Path] = (), *, strict: bool = True) -> Plugins:
    """Like `benchkit.core.plugins.load_plugins`, which is imported late."""
    from benchkit.core import plugins

    return plugins.load_plugins(files, strict=strict)


def request(**options: Any) -> Request:
    """A request from options of the same names. Options without a value keep the request's defaults."""
    from benchkit.experiment.config import Request

    return Request(**given(options))
