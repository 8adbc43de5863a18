"""`benchkit encoders`: what is here, fetching, looking, converting."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def encoders() -> None:
    """List, fetch, show and convert encoders."""


@encoders.command("list")
def list_encoders() -> None:
    """List the encoders that --encoder finds by name, and a few that could be fetched."""
    from benchkit.core.plugins import load_plugins
    from benchkit.inspect.heads import available, render_encoders

    click.echo(render_encoders(available(load_plugins())))


@encoders.command()
@click.argument("id", metavar="ID")
@click.option(
    "--revision", metavar="COMMIT", default="", help="A commit, branch or tag; default: main, or what is here."
)
def fetch(id: str, revision: str) -> None:
    """Fetch a BERT or DistilBERT from Hugging Face by its id, such as sentence-transformers/all-MiniLM-L6-v2.

    Only the needed files are fetched, checked against what the hub knows of them, and loaded once. The commit is
    recorded. Pickled weights are read as tensors alone and become safetensors. An interrupted download continues
    where it was. HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables are honoured.
    """
    from benchkit.cli.progress import Progress
    from benchkit.hub.encoders import encoders_root, fetch_encoder

    record = fetch_encoder(id, revision, Progress())
    licence = record.licence or "not stated"
    click.echo(f"{id} at {record.revision}, {record.parameters / 1e6:.1f} M parameters, licence {licence}")
    click.echo(f"in {encoders_root() / id}: use it with --encoder {id}")


@encoders.command()
@click.argument("name", metavar="NAME|DIR|ID")
def show(name: str) -> None:
    """Show an encoder's shape, parameters, memory, vocabulary, layers and pooling."""
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.workspace import find_folder, open_encoder
    from benchkit.inspect.heads import render_encoder

    plugins = load_plugins()
    encoder = open_encoder(name, plugins)
    click.echo(render_encoder(encoder, None if name in plugins.encoders else find_folder(name)))


@encoders.command()
@click.argument("name", metavar="NAME|DIR|ID")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def convert(name: str, folder: Path) -> None:
    """Write an encoder as a new folder in Hugging Face's BERT layout, with float32 safetensors.

    From pickled weights, from a DistilBERT, or from a plugin's encoder; transformers reads the result too.
    """
    from benchkit.core.plugins import load_plugins
    from benchkit.experiment.workspace import find_folder, open_encoder
    from benchkit.hub.encoders import convert_encoder

    plugins = load_plugins()
    encoder = open_encoder(name, plugins)
    convert_encoder(encoder, None if name in plugins.encoders else find_folder(name), folder)
    click.echo(f"wrote {folder}: use it with --encoder {folder}")
