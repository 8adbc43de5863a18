"""`benchkit export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchkit.cli.trained import chosen, say

if TYPE_CHECKING:
    from benchkit.predict.model import Model


@click.command(short_help="Write a trained head and its encoder to a folder.")
@chosen
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", required=True, help="A new folder.")
@click.option("--onnx", is_flag=True, help="Also onnx/TASK.onnx, from word pieces to the answer.")
def export(out: Path, onnx: bool, **options: Any) -> None:
    """Write a folder with encoder, head, config and a loading example: safetensors and JSON, no pickle.

    \b
    benchkit export --run DIR --head cnn --out my-model
    benchkit predict --model my-model --task sst "A gripping film."

    In Python, benchkit.load_exported("my-model") gives the model back. The folder holds no code: the head's plugin
    must be installed, or given with --head-file, where it is loaded; an ONNX file needs neither it nor benchkit.
    """  # noqa: D301 - click reads \b as "do not rewrap"
    from benchkit.cli.trained import Trained
    from benchkit.predict.exported import write_export

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
