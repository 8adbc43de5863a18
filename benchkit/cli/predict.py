"""`benchkit predict` and `benchkit export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchkit.core.plugins import Plugins
    from benchkit.core.record import Record
    from benchkit.predict.data import Input, Predicted
    from benchkit.predict.model import InputFormat, Loader, Model
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
    """A line for the user that is no part of the predictions."""
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
        from benchkit.core.errors import UserError
        from benchkit.core.plugins import load_plugins
        from benchkit.experiment.config import choose_device
        from benchkit.predict.model import Loader, open_run

        if not options["run"]:
            raise UserError("name a run's folder with --run: what benchkit run --out wrote")
        if options["cell"] and (options["head"] or options["seed"] is not None):
            raise UserError("--cell names head and seed already: leave out --head and --seed")
        plugins = load_plugins(options["head_files"])
        store = open_run(options["run"], say)
        device = choose_device(options["device"])
        return Trained(options, plugins, store, Loader(store, plugins, device, options["encoder"] or ""))

    def one(self) -> Record:
        from benchkit.predict.model import one

        return one(self.store, self.options["head"] or "", self.options["seed"], self.options["cell"] or "")

    def load(self, record: Record) -> Model:
        return self.loader.load(record)

    def all_seeds(self) -> list[Model]:
        """One model a seed of the head; those without usable weights are named and left out."""
        from benchkit.core.errors import UserError
        from benchkit.predict.model import USABLE, of_head

        if self.options["cell"] or self.options["seed"] is not None:
            raise UserError("--average takes all seeds of a head: leave out --seed and --cell")
        records = of_head(self.store, self.options["head"] or "")
        for record in records:
            if record.status not in USABLE:
                say(f"left out: {record.head} seed {record.seed} {record.status}: {record.error}")
        return [self.load(record) for record in records if record.status in USABLE]


def open_exported(options: dict[str, Any]) -> Model:
    """The model of the folder that `--model` names."""
    from benchkit.predict.export import load_exported

    return load_exported(options["model"], head_files=options["head_files"], device=options["device"])


@click.command(short_help="Predict with a trained head.")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@chosen
@click.option("--model", type=click.Path(path_type=Path), metavar="DIR",
              help="A folder that benchkit export wrote, instead of --run.")  # fmt: skip
@click.option("--average", is_flag=True, help="Average over all seeds of the head.")
@click.option("--task", metavar="NAME", help="What to predict; not needed where there is one task.")
@click.option("--input", "source", type=click.Path(path_type=Path), metavar="FILE",
              help="Texts from a file: .txt, a line each; .csv, .tsv, .jsonl or .parquet; - is stdin.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["table", "csv", "jsonl", "cs224n"]),
              help="Default: a table on a terminal, else by the suffix of --out, else csv.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="PATH",
              help="File to write instead of stdout; for cs224n the folder.")  # fmt: skip
@click.option("--data", metavar="DIR", help="For cs224n: the data to predict; default: the run's.")
def predict(texts: tuple[str, ...], **options: Any) -> None:
    """Predict for texts of your own, or write the files of the CS224N project.

    \b
    benchkit predict --run DIR --head cnn --task sst "A gripping film." "Dull."
    benchkit predict --run DIR --head cnn --task sts "A man eats." "Someone is eating."
    benchkit predict --run DIR --head cnn --task quora --input pairs.tsv --out predictions.jsonl
    benchkit predict --run DIR --head cnn --format cs224n --out predictions

    Arguments are sentences, or pairs two by two. In lines of text a tab stands between the sentences of a pair; in
    tables the columns are named as in the task's data. Without texts and --input they are read from stdin.

    The weights are those that a run ends with, after its last phase. Without --seed those of the seed that is best on
    dev. One sentence gets the number that it gets among many, and that the run stored.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    if options["kind"] == "cs224n":
        _submission(texts, options)
    else:
        _predict_texts(texts, options)


def _submission(texts: tuple[str, ...], options: dict[str, Any]) -> None:
    from benchkit.core.errors import UserError
    from benchkit.predict.data import write_submission

    given = [name for name in ("task", "source", "average", "model") if options[name]]
    if texts or given:
        flags = [f"--{name}".replace("source", "input") for name in given] or ["texts"]
        raise UserError(f"--format cs224n predicts the dev and test splits of one cell: leave out {', '.join(flags)}")
    if not options["out"]:
        raise UserError("--format cs224n writes several files: name their folder with --out")
    trained = Trained.open(options)
    record = trained.one()
    model = cache(lambda: trained.load(record))
    source, folder = options["data"] or "", options["out"]
    for path in write_submission(trained.store, record, trained.plugins, model, source, folder, say):
        click.echo(path)


def _predict_texts(texts: tuple[str, ...], options: dict[str, Any]) -> None:
    from benchkit.core.errors import UserError
    from benchkit.predict.data import write, write_file

    if texts and options["source"]:
        raise UserError("texts come from arguments or from --input, not from both")
    if options["data"]:
        raise UserError("--data goes with --format cs224n; texts of your own come from --input")
    models = _models(options)
    task = _task(models[0], options["task"])
    format = models[0].format(task)
    predicted = _predicted(models, task, _inputs(texts, options["source"], format))
    kind, out = _kind(options["kind"], options["out"]), options["out"]
    if out is None:
        write(sys.stdout, predicted, format, kind)
    else:
        write_file(out, predicted, format, kind)


def _models(options: dict[str, Any]) -> list[Model]:
    from benchkit.core.errors import UserError

    if options["model"]:
        names = ("run", "head", "seed", "cell", "average", "encoder")
        given = [f"--{name}" for name in names if options[name] not in (None, "", False)]
        if given:
            raise UserError(f"--model is one head with one seed: leave out {', '.join(given)}")
        models = [open_exported(options)]
    else:
        trained = Trained.open(options)
        models = trained.all_seeds() if options["average"] else [trained.load(trained.one())]
    for note in dict.fromkeys(note for model in models for note in model.notes):
        say(note)
    say(f"{' + '.join(model.name for model in models)} on {models[0].encoder.name}")
    return models


def _task(model: Model, name: str | None) -> str:
    from benchkit.core.errors import UserError

    if name:
        model.format(name)
        return name
    if len(model.tasks) > 1:
        raise UserError(f"name a task with --task: {', '.join(model.tasks)}")
    return next(iter(model.tasks))


def _inputs(texts: tuple[str, ...], source: Path | None, format: InputFormat) -> Iterable[Input]:
    from benchkit.predict.data import from_arguments, from_file, from_lines

    if texts:
        return from_arguments(texts, format)
    if source and str(source) != "-":
        return from_file(source, format, say)
    if sys.stdin.isatty():
        say(f"reading {' and '.join(format.texts)} from the keyboard, a line each; Ctrl-D ends")
    return from_lines(sys.stdin, format, "stdin")


def _predicted(models: list[Model], task: str, inputs: Iterable[Input]) -> Iterator[Predicted]:
    from benchkit.predict.data import CHUNK
    from benchkit.predict.model import predict as predict_all

    examples = iter(inputs)
    while chunk := list(islice(examples, CHUNK)):
        yield from zip(chunk, predict_all(models, task, [each.texts for each in chunk]), strict=True)


def _kind(kind: str | None, out: Path | None) -> str:
    from benchkit.core.errors import UserError

    if kind:
        return kind
    if out is None:
        return "table" if sys.stdout.isatty() else "csv"
    if out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{out}: name it .csv or .jsonl, or say which with --format")
    return out.suffix.removeprefix(".")


@click.command(short_help="Write a trained head and its encoder to a folder.")
@chosen
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help="A new folder.")
@click.option("--onnx", is_flag=True, help="Also onnx/TASK.onnx, from word pieces to the prediction.")
def export(out: Path, onnx: bool, **options: Any) -> None:
    """Write a folder with encoder, head, config and a loading example: safetensors and JSON, no pickle.

    \b
    benchkit export --run DIR --head cnn --out my-model
    benchkit predict --model my-model --task sst "A gripping film."

    In Python, benchkit.load_exported("my-model") gives the model back. The folder holds no code: the head's plugin
    must be installed, or given with --head-file, where it is loaded; an ONNX file needs neither it nor benchkit.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.predict.export import write_export

    if onnx:
        from benchkit.predict.onnx import check_installed

        check_installed()
    trained = Trained.open(options)
    record = trained.one()
    model = trained.load(record)
    for note in model.notes:
        say(note)
    write_export(model, record, out, (lambda folder: _graphs(model, folder)) if onnx else None)
    click.echo(f"{model.name} on {model.encoder.name} is in {out}")


def _graphs(model: Model, folder: Path) -> None:
    from benchkit.predict.onnx import write_onnx

    for task, difference in write_onnx(model, folder / "onnx").items():
        say(f"onnx/{task}.onnx: within {difference:.1g} of the model in fp32, on the texts it was tried on")
    if model.settings.precision != "fp32":
        say(f"the ONNX files compute in fp32: {model.name}, in {model.settings.precision}, differs by its rounding")
