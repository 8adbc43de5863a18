"""`benchkit predict`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli.trained import chosen, say

if TYPE_CHECKING:
    from benchkit.predict.model import Model, Question
    from benchkit.predict.read import Asked
    from benchkit.predict.write import Answered

_CHUNK = 4096  # examples that are encoded together


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
    benchkit predict --run DIR --head cnn --task quora --input pairs.tsv --out answers.jsonl
    benchkit predict --run DIR --head cnn --format cs224n --out predictions

    Arguments are sentences, or pairs two by two. In lines of text a tab stands between the sentences of a pair; in
    tables the columns are named as in the task's data. Without texts and --input they are read from stdin.

    The weights are those that a run ends with, after its last phase. Without --seed those of the seed that is best on
    dev. One sentence gets the number that it gets among many, and that the run stored.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    if options["kind"] == "cs224n":
        _submission(texts, options)
    else:
        _answers(texts, options)


def _submission(texts: tuple[str, ...], options: dict[str, Any]) -> None:
    from benchkit.cli.trained import Trained
    from benchkit.errors import UserError
    from benchkit.predict.splits import Submission

    given = [name for name in ("task", "source", "average", "model") if options[name]]
    if texts or given:
        flags = [f"--{name}".replace("source", "input") for name in given] or ["texts"]
        raise UserError(f"--format cs224n predicts the dev and test splits of one cell: leave out {', '.join(flags)}")
    if not options["out"]:
        raise UserError("--format cs224n writes several files: name their folder with --out")
    trained = Trained.open(options)
    record = trained.one()
    submission = Submission(trained.store, record, trained.plugins, cache(lambda: trained.load(record)), say)
    for path in submission.write(options["data"] or "", options["out"]):
        click.echo(path)


def _answers(texts: tuple[str, ...], options: dict[str, Any]) -> None:
    from benchkit.errors import UserError
    from benchkit.predict.write import write, write_file

    if texts and options["source"]:
        raise UserError("texts come from arguments or from --input, not from both")
    if options["data"]:
        raise UserError("--data goes with --format cs224n; texts of your own come from --input")
    models = _models(options)
    task = _task(models[0], options["task"])
    question = models[0].question(task)
    asked = _asked(texts, options["source"], question)
    answers = _answered(models, task, asked)
    kind, out = _kind(options["kind"], options["out"]), options["out"]
    if out is None:
        write(sys.stdout, answers, question, kind)
    else:
        write_file(out, answers, question, kind)


def _models(options: dict[str, Any]) -> list[Model]:
    from benchkit.cli.trained import Trained, open_exported
    from benchkit.errors import UserError

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
    from benchkit.errors import UserError

    if name:
        model.question(name)
        return name
    if len(model.questions) > 1:
        raise UserError(f"name a task with --task: {', '.join(model.questions)}")
    return next(iter(model.questions))


def _asked(texts: tuple[str, ...], source: Path | None, question: Question) -> Iterable[Asked]:
    from benchkit.predict.read import from_arguments, from_file, from_lines

    if texts:
        return from_arguments(texts, question)
    if source and str(source) != "-":
        return from_file(source, question, say)
    if sys.stdin.isatty():
        say(f"reading {' and '.join(question.texts)} from the keyboard, a line each; Ctrl-D ends")
    return from_lines(sys.stdin, question, "stdin")


def _answered(models: list[Model], task: str, asked: Iterable[Asked]) -> Iterator[Answered]:
    from benchkit.predict.model import predict as answer

    examples = iter(asked)
    while chunk := list(islice(examples, _CHUNK)):
        yield from zip(chunk, answer(models, task, [each.texts for each in chunk]), strict=True)


def _kind(kind: str | None, out: Path | None) -> str:
    from benchkit.errors import UserError

    if kind:
        return kind
    if out is None:
        return "table" if sys.stdout.isatty() else "csv"
    if out.suffix not in (".csv", ".jsonl"):
        raise UserError(f"{out}: name it .csv or .jsonl, or say which with --format")
    return out.suffix.removeprefix(".")
