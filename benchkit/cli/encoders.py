"""`benchkit encoders` and `benchkit pretrain`: where encoders come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli import options
from benchkit.cli.progress import Progress, shown
from benchkit.core.errors import UserError

if TYPE_CHECKING:
    from benchkit.encoder import Encoder
    from benchkit.pretraining import Recipe


@click.group()
def encoders() -> None:
    """List, fetch, show and convert encoders."""


@encoders.command("list")
def list_encoders() -> None:
    """List the encoders that --encoder finds by name, and a few that could be fetched."""
    from benchkit.inspect.heads import available, render_encoders

    click.echo(render_encoders(available(options.load_plugins())))


@encoders.command()
@click.argument("id", metavar="ID")
@click.option("--revision", metavar="COMMIT",
              help="A commit, branch or tag; default: the fetched one if there is one, else main.")  # fmt: skip
def fetch(id: str, revision: str | None) -> None:
    """Fetch a BERT or DistilBERT from Hugging Face by its id, such as sentence-transformers/all-MiniLM-L6-v2.

    Only the needed files are fetched. They are checked against the hub's sizes and checksums, and the encoder is loaded
    once as a test. The commit is recorded. Pickled weights are read as tensors only and converted to safetensors. The
    next call continues an interrupted download. HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables
    are used.
    """
    from benchkit.hub.encoders import encoders_root, fetch_encoder

    record = fetch_encoder(id, revision or "", Progress())
    licence = record.licence or "not stated"
    click.echo(f"{id} at {record.revision}, {record.parameters / 1e6:.1f} M parameters, licence {licence}")
    click.echo(f"in {encoders_root() / id}: use it with --encoder {id}")


@encoders.command()
@click.argument("name", metavar="NAME|DIR|ID")
def show(name: str) -> None:
    """Show an encoder's shape, parameters, memory, vocabulary, layers and pooling."""
    from benchkit.inspect.heads import render_encoder

    click.echo(render_encoder(*_open(name)))


@encoders.command()
@click.argument("name", metavar="NAME|DIR|ID")
@click.argument("folder", metavar="DIR", type=options.DIR)
def convert(name: str, folder: Path) -> None:
    """Write an encoder as a new folder in Hugging Face's BERT layout, with float32 safetensors.

    The source may have pickled weights, or be a DistilBERT or a plugin's encoder. transformers can read the result.
    """
    from benchkit.hub.encoders import convert_encoder

    convert_encoder(*_open(name), folder)
    click.echo(f"wrote {folder}: use it with --encoder {folder}")


def _open(name: str) -> tuple[Encoder, Path | None]:
    """An encoder, and the folder that it comes from; None for a plugin's."""
    from benchkit.experiment.workspace import find_folder, open_encoder

    plugins = options.load_plugins()
    return open_encoder(name, plugins), None if name in plugins.encoders else find_folder(name)


# Options that only a new encoder takes.
_SHAPE = ("layers", "hidden", "heads", "vocab_size", "cased", "dropout")
# Options that are not part of the recipe.
_REQUEST = ("out", "files", "data", "tasks", "columns", "base", "half", "device", "precision", "threads")


@click.command(short_help="Train a new encoder on texts, or continue one.")
@click.argument("files", nargs=-1, type=options.FILE)
@options.out("The encoder's folder.", required=True)
@options.data("Also train on the tasks' training texts in this folder, or `demo`.")
@options.tasks("Only texts of these tasks; default: all that the data has.")
@click.option("--column", "columns", multiple=True, metavar="NAME",
              help="Column of tables with text; repeatable; default: text, sentence, sentence1 and 2.")  # fmt: skip
@click.option("--from", "base", metavar="NAME|DIR", help="Train this encoder further, with its own vocabulary.")
@click.option("--layers", type=int, help="Layers of a new encoder; default 4.")
@click.option("--hidden", type=int, help="Width of a new encoder; default 256.")
@click.option("--heads", type=int, help="Attention heads of a new encoder; default 4.")
@click.option("--vocab-size", type=int, help="Most word pieces of a new vocabulary; default 8000.")
@click.option("--cased", is_flag=True, default=None, help="Keep capitals and accents in a new vocabulary.")
@click.option("--dropout", type=float, help="Dropout of a new encoder, also in later fine-tuning; default 0.1.")
@click.option("--max-length", type=int, help="Most word pieces of a sequence; longer texts are split; default 128.")
@click.option("--epochs", type=float, help="Passes over the texts; default 3.")
@click.option("--steps", type=int, help="Number of steps, instead of --epochs.")
@click.option("--batch", type=int, help="Word pieces a step; default 4096.")
@click.option("--lr", "learning_rate", type=float, help="Highest learning rate; default 5e-4, with --from 5e-5.")
@click.option("--schedule", metavar="NAME", help="Schedule after the warm-up: constant, linear (default) or cosine.")
@click.option("--warmup", type=float, help="Share of the steps in which the learning rate rises; default 0.1.")
@click.option("--weight-decay", type=float, help="Weight decay, not of biases and norms; default 0.01.")
@click.option("--clip", type=float, help="Largest norm of the gradient; 0 turns clipping off; default 1.")
@click.option("--mask", type=float, help="Share of word pieces to predict; default 0.15.")
@click.option("--whole-word", is_flag=True, default=None, help="Mask words with all their pieces.")
@click.option("--held-out", type=float, help="Share of the texts that perplexity is measured on; default 0.01.")
@click.option("--every", type=int,
              help="Steps between evaluations, each with a checkpoint; default: fifty evaluations in all.")  # fmt: skip
@click.option("--seed", type=int, help="Default 0.")
@click.option("--half", is_flag=True, help="Store the weights as fp16.")
@options.device()
@options.precision(default="auto")
@options.threads()
def pretrain(**given: Any) -> None:
    """Train an encoder to predict masked words (Devlin et al. 2019): a new one, or an existing one with --from.

    FILES are plain text with one sentence or document per line, or tables (.tsv, .csv, .jsonl, .parquet). Each may also
    be .gz.

    \b
    benchkit pretrain reviews.txt --out encoders/mine
    benchkit pretrain --data DIR --from bert-base-uncased --out encoders/adapted
    benchkit run --encoder encoders/mine

    The same command resumes a stopped training. The folder has the Hugging Face layout and can be used from the first
    checkpoint on.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    import torch

    from benchkit.pretraining import Request
    from benchkit.pretraining import pretrain as run

    asked = options.given({name: given.pop(name) for name in _REQUEST})
    recipe = _recipe(options.given(given), asked.get("base", ""))
    torch.set_num_threads(asked["threads"])
    with shown("from the last checkpoint") as progress:
        record = run(Request(recipe=recipe, **asked), options.load_plugins(), progress)
    result, unigram, out = record["result"], record["unigram"], asked["out"]
    click.echo(
        f"{record['parameters'] / 1e6:.1f} M parameters, {record['vocab_size']:,} word pieces; "
        f"{result['step']:,} steps, {result['epoch']:.2g} epochs, {result['pieces_per_second']:,} pieces/s\n"
        f"held out: perplexity {result['held_out_perplexity']:,.1f} (frequencies alone: {unigram['perplexity']:,.1f}), "
        f"{result['held_out_accuracy']:.1%} of masked pieces guessed\n"
        f"{out} holds the encoder, its record and its curve; use it with --encoder {out}"
    )


def _recipe(given: dict[str, Any], base: str) -> Recipe:
    from benchkit.core.settings import apply
    from benchkit.pretraining import Recipe

    fixed = options.flags({name: given[name] for name in _SHAPE if name in given})
    if base and fixed:
        raise UserError(f"{fixed}: an encoder that is gone on with keeps its own; leave out these or --from")
    try:
        return apply(Recipe(learning_rate=5e-5) if base else Recipe(), given, "")
    except ValueError as error:
        raise UserError(str(error)) from None
