"""`benchkit predict` and `benchkit export`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli import options
from benchkit.cli.output import say
from benchkit.core.errors import UserError

if TYPE_CHECKING:
    from benchkit.core.record import Record
    from benchkit.predict.data import Input, Predicted
    from benchkit.predict.model import InputFormat, Loader, Model


def _trained(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that name a trained head."""
    for option in reversed((
        click.option("--run", type=options.DIR, help="Folder that benchkit run --out wrote."),
        click.option("--head", metavar="NAME", help="One of the heads of the run."),
        click.option("--seed", type=click.IntRange(min=0), help="Default: the seed that is best on dev."),
        click.option("--cell", metavar="KEY",
                     help="A cell by its key, or the beginning of it, instead of head and seed."),
        options.encoder("Where the run's encoder is, if its name does not find it."),
        options.head_file("The Python file that the head, task or encoder came from; repeatable."),
        options.device(),
    )):  # fmt: skip
        command = option(command)
    return command


@click.command(short_help="Predict with a trained head.")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@_trained
@click.option("--model", type=options.DIR, help="A folder that benchkit export wrote, instead of --run.")
@click.option("--average", is_flag=True, help="Average over all seeds of the head.")
@click.option("--task", metavar="NAME", help="Task to predict; not needed if there is only one.")
@click.option("--input", "source", type=options.FILE,
              help="Texts from a file: .txt, a line each; .csv, .tsv, .jsonl or .parquet; - is stdin.")  # fmt: skip
@click.option("--format", "kind", type=click.Choice(["table", "csv", "jsonl", "cs224n"]),
              help="Default: by the suffix of --out; without --out, table on a terminal, else csv.")  # fmt: skip
@click.option("--out", type=options.PATH, help="File to write instead of stdout; for cs224n the folder.")
@options.data("For cs224n: the data to predict; default: the run's.")
def predict(texts: tuple[str, ...], **given: Any) -> None:
    """Predict for texts of your own, or write the files of the CS224N project.

    \b
    benchkit predict --run DIR --head cnn --task sst "A gripping film." "Dull."
    benchkit predict --run DIR --head cnn --task sts "A man eats." "Someone is eating."
    benchkit predict --run DIR --head cnn --task quora --input pairs.tsv --out predictions.jsonl
    benchkit predict --run DIR --head cnn --format cs224n --out predictions

    Each argument is a sentence; for pairs, every two arguments are a pair. In lines of text, a tab separates the
    sentences of a pair. In tables, the columns have the names of the task's data. Without arguments and --input, texts
    are read from stdin.

    The weights are those after the last phase of the run. Without --seed, the seed that is best on dev is used. The
    prediction for a sentence does not depend on the other sentences, and equals the one that the run stored.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    if given["kind"] == "cs224n":
        _submission(texts, given)
    else:
        _predict_texts(texts, given)


def _loader(given: dict[str, Any]) -> Loader:
    """What loads models of the run that the options name."""
    from benchkit.experiment.config import choose_device
    from benchkit.predict.model import Loader, open_run

    if not given["run"]:
        raise UserError("name a run's folder with --run: what benchkit run --out wrote")
    if given["cell"] and (given["head"] or given["seed"] is not None):
        raise UserError("--cell names head and seed already: leave out --head and --seed")
    plugins = options.load_plugins(given["head_files"])
    store = open_run(given["run"], say)
    return Loader(store, plugins, choose_device(given["device"]), given["encoder"] or "")


def _record(loader: Loader, given: dict[str, Any]) -> Record:
    """The record of the cell that the options name."""
    from benchkit.predict.model import one

    return one(loader.store, given["head"] or "", given["seed"], given["cell"] or "")


def _submission(texts: tuple[str, ...], given: dict[str, Any]) -> None:
    from benchkit.predict.data import write_submission

    without = options.flags({name: given[name] for name in ("task", "source", "average", "model")})
    if texts or without:
        what = without or "the texts"
        raise UserError(f"--format cs224n predicts the dev and test splits of one cell: leave out {what}")
    if not given["out"]:
        raise UserError("--format cs224n writes several files: name their folder with --out")
    loader = _loader(given)
    record = _record(loader, given)
    model = cache(lambda: loader.load(record))
    for path in write_submission(loader.store, record, loader.plugins, model, given["data"] or "", given["out"], say):
        click.echo(path)


def _predict_texts(texts: tuple[str, ...], given: dict[str, Any]) -> None:
    from benchkit.predict.data import write, write_file

    if texts and given["source"]:
        raise UserError("texts come from arguments or from --input, not from both")
    if given["data"]:
        raise UserError("--data goes with --format cs224n; texts of your own come from --input")
    models = _models(given)
    task, tasks = given["task"], models[0].tasks
    if not task and len(tasks) > 1:
        raise UserError(f"name a task with --task: {', '.join(tasks)}")
    task = task or next(iter(tasks))
    format = models[0].format(task)
    predicted = _predicted(models, task, _inputs(texts, given["source"], format))
    kind, out = _kind(given["kind"], given["out"]), given["out"]
    if out is None:
        write(sys.stdout, predicted, format, kind)
    else:
        write_file(out, predicted, format, kind)


def _models(given: dict[str, Any]) -> list[Model]:
    """One model, or with --average one a seed; cells without usable weights are named and left out."""
    from benchkit.predict.export import load_exported
    from benchkit.predict.model import USABLE, of_head

    if given["model"]:
        names = ("run", "head", "seed", "cell", "average", "encoder")
        if without := options.flags({name: given[name] for name in names}):
            raise UserError(f"--model is one head with one seed: leave out {without}")
        models = [load_exported(given["model"], head_files=given["head_files"], device=given["device"])]
    else:
        loader = _loader(given)
        if given["average"]:
            if given["cell"] or given["seed"] is not None:
                raise UserError("--average takes all seeds of a head: leave out --seed and --cell")
            records = of_head(loader.store, given["head"] or "")
            for record in records:
                if record.status not in USABLE:
                    say(f"left out: {record.head} seed {record.seed} {record.status}: {record.error}")
            models = [loader.load(record) for record in records if record.status in USABLE]
        else:
            models = [loader.load(_record(loader, given))]
    for note in dict.fromkeys(note for model in models for note in model.notes):
        say(note)
    say(f"{' + '.join(model.name for model in models)} on {models[0].encoder.name}")
    return models


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
    if kind:
        return kind
    if out is None:
        return "table" if sys.stdout.isatty() else "csv"
    if out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{out}: name it .csv or .jsonl, or say which with --format")
    return out.suffix.removeprefix(".")


@click.command(short_help="Write a trained head and its encoder to a folder.")
@_trained
@click.option("--out", type=options.DIR, metavar="FOLDER", required=True, help="A new folder.")
@click.option("--onnx", is_flag=True, help="Also write onnx/TASK.onnx, from word pieces to the prediction.")
def export(out: Path, onnx: bool, **given: Any) -> None:
    """Write a folder with encoder, head, config and a loading example: safetensors and JSON, no pickle.

    \b
    benchkit export --run DIR --head cnn --out my-model
    benchkit predict --model my-model --task sst "A gripping film."

    In Python, benchkit.load_exported("my-model") loads the model. The folder contains no code. To load it, the head's
    plugin must be installed or given with --head-file. An ONNX file needs neither the plugin nor benchkit.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.predict.export import write_export

    if onnx:
        from benchkit.predict.onnx import check_installed

        check_installed()
    loader = _loader(given)
    record = _record(loader, given)
    model = loader.load(record)
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
