"""`benchkit pretrain`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchkit.pretraining import Recipe


# What only a new encoder can be given.
_SHAPE = ("layers", "hidden", "heads", "vocab_size", "cased", "dropout")


@click.command(short_help="Train an encoder on texts, new or further.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The encoder's folder.")
@click.option("--data", metavar="DIR", default="", help="Also the tasks' training texts in a folder, or `demo`.")
@click.option("--tasks", metavar="NAMES", default="", help="Of these tasks only; default: all that are there.")
@click.option("--column", "columns", multiple=True, metavar="NAME",
              help="Column of tables with text; repeatable; default: text, sentence, sentence1 and 2.")  # fmt: skip
@click.option("--from", "base", metavar="NAME|DIR", default="",
              help="Go on with this encoder and its vocabulary, instead of a new one.")  # fmt: skip
@click.option("--layers", type=int, help="Of a new encoder; default 4.")
@click.option("--hidden", type=int, help="Its width; default 256.")
@click.option("--heads", type=int, help="Its attention heads; default 4.")
@click.option("--vocab-size", type=int, help="Its word pieces, at most; default 8000.")
@click.option("--cased", is_flag=True, default=None, help="Keep capitals and accents in its vocabulary.")
@click.option("--dropout", type=float, help="Its dropout, also of later fine-tuning; default 0.1.")
@click.option("--max-length", type=int, help="Word pieces of a sequence; longer texts are cut up. Default 128.")
@click.option("--epochs", type=float, help="Passes over the texts; default 3.")
@click.option("--steps", type=int, help="Instead of --epochs.")
@click.option("--batch", type=int, help="Word pieces a step; default 4096.")
@click.option("--lr", "learning_rate", type=float, help="Highest rate; default 5e-4, with --from 5e-5.")
@click.option("--schedule", metavar="NAME", help="constant, linear (default) or cosine, after the warm-up.")
@click.option("--warmup", type=float, help="Share of the steps in which the rate rises; default 0.1.")
@click.option("--weight-decay", type=float, help="Default 0.01; not of biases and norms.")
@click.option("--clip", type=float, help="Largest norm of the gradient; default 1, 0 leaves it.")
@click.option("--mask", type=float, help="Share of word pieces to predict; default 0.15.")
@click.option("--whole-word", is_flag=True, default=None, help="Mask words with all their pieces.")
@click.option("--held-out", type=float, help="Share of the texts that perplexity is measured on; default 0.01.")
@click.option("--every", type=int, help="Steps between measurements, each with a checkpoint; default: fifty in all.")
@click.option("--seed", type=int, help="Default 0.")
@click.option("--half", is_flag=True, help="Store the weights as fp16.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads.")
def pretrain(**options: Any) -> None:
    """Train an encoder to guess masked words in texts (Devlin et al. 2019): a new one, or --from one that exists.

    FILES are plain text, a sentence or a document a line, or tables (.tsv, .csv, .jsonl, .parquet); each also .gz.

    \b
    benchkit pretrain reviews.txt --out encoders/mine
    benchkit pretrain --data DIR --from bert-base-uncased --out encoders/adapted
    benchkit run --encoder encoders/mine

    The same command goes on where it was stopped. The folder is in the Hugging Face layout and can be used from the
    first checkpoint on.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    import torch

    from benchkit.cli.progress import Progress
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.config import split_names
    from benchkit.pretraining import Request
    from benchkit.pretraining import pretrain as run

    names = ("out", "files", "data", "tasks", "columns", "base", "half", "device", "precision", "threads")
    asked = {name: options.pop(name) for name in names}
    asked["tasks"] = split_names(asked["tasks"])
    recipe = _recipe({name: value for name, value in options.items() if value is not None}, asked["base"])
    torch.set_num_threads(asked["threads"])
    progress = Progress()
    try:
        record = run(Request(recipe=recipe, **asked), load_plugins(), progress)
    except KeyboardInterrupt:
        progress.close()
        click.echo("benchkit: interrupted; the same command goes on from the last checkpoint", err=True)
        sys.exit(130)
    finally:
        progress.close()
    _tell(record, asked["out"])


def _recipe(given: dict[str, Any], base: str) -> Recipe:
    from benchkit.core.errors import UserError
    from benchkit.core.settings import apply
    from benchkit.pretraining import Recipe

    fixed = [f"--{name.replace('_', '-')}" for name in _SHAPE if name in given]
    if base and fixed:
        raise UserError(f"{', '.join(fixed)}: an encoder that is gone on with keeps its own; leave out these or --from")
    start = Recipe(learning_rate=5e-5) if base else Recipe()
    try:
        return apply(start, given, "")
    except ValueError as error:
        raise UserError(str(error)) from None


def _tell(record: dict[str, Any], out: Path) -> None:
    result, unigram = record["result"], record["unigram"]
    click.echo(
        f"{record['parameters'] / 1e6:.1f} M parameters, {record['vocab_size']:,} word pieces; "
        f"{result['step']:,} steps, {result['epoch']:.2g} epochs, {result['pieces_per_second']:,} pieces/s\n"
        f"held out: perplexity {result['held_out_perplexity']:,.1f} (frequencies alone: {unigram['perplexity']:,.1f}), "
        f"{result['held_out_accuracy']:.1%} of masked pieces guessed\n"
        f"{out} holds the encoder, its record and its curve; use it with --encoder {out}"
    )
