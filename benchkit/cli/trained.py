"""Which trained head a command means: the options that `predict` and `export` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchkit.plugins import Plugins
    from benchkit.predict.load import Loader
    from benchkit.predict.model import Model
    from benchkit.record import Record
    from benchkit.store.cells import CellStore

_OPTIONS = (
    click.option("--run", type=click.Path(path_type=Path), metavar="DIR", help="What benchkit run --out wrote."),
    click.option("--head", metavar="NAME", help="One of the heads of the run."),
    click.option("--seed", type=click.IntRange(min=0), help="Default: the seed that is best on dev."),
    click.option("--cell", metavar="KEY", help="A cell by its key, or the beginning of it, instead of head and seed."),
    click.option("--encoder", metavar="NAME|DIR", help="Where the run's encoder is, if its name does not lead to it."),
    click.option("--head-file", "head_files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
                 help="The Python file that the head, task or encoder came from; repeatable."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
)  # fmt: skip


def chosen(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a trained head."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def say(line: str) -> None:
    """Tell the user something that is no part of the answer."""
    click.echo(line, err=True)


@dataclass
class Trained:
    """The run that the options name."""

    options: dict[str, Any]
    plugins: Plugins
    store: CellStore
    loader: Loader

    @staticmethod
    def open(options: dict[str, Any]) -> Trained:
        from benchkit.errors import UserError
        from benchkit.plugins import load_plugins
        from benchkit.predict.find import open_run
        from benchkit.predict.load import Loader
        from benchkit.runner.request import choose_device

        if not options["run"]:
            raise UserError("name a run's folder with --run: what benchkit run --out wrote")
        if options["cell"] and (options["head"] or options["seed"] is not None):
            raise UserError("--cell names head and seed already: leave out --head and --seed")
        plugins = load_plugins(options["head_files"])
        store = open_run(options["run"], say)
        device = choose_device(options["device"])
        return Trained(options, plugins, store, Loader(store, plugins, device, options["encoder"] or ""))

    def one(self) -> Record:
        from benchkit.predict.find import one

        return one(self.store, self.options["head"] or "", self.options["seed"], self.options["cell"] or "")

    def load(self, record: Record) -> Model:
        return self.loader.load(record)

    def all_seeds(self) -> list[Model]:
        """One model a seed of the head; those without usable weights are named and left out."""
        from benchkit.errors import UserError
        from benchkit.predict.find import USABLE, of_head

        if self.options["cell"] or self.options["seed"] is not None:
            raise UserError("--average takes all seeds of a head: leave out --seed and --cell")
        records = of_head(self.store, self.options["head"] or "")
        for record in records:
            if record.status not in USABLE:
                say(f"left out: {record.head} seed {record.seed} {record.status}: {record.error}")
        return [self.load(record) for record in records if record.status in USABLE]


def open_exported(options: dict[str, Any]) -> Model:
    """The model of the folder that `--model` names."""
    from benchkit.predict.exported import load_exported

    return load_exported(options["model"], head_files=options["head_files"], device=options["device"])
