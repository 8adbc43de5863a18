"""From what a user writes after `--encoder` to an encoder."""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchkit.encoder import Encoder, load_encoder
from benchkit.encoder.load import untrained
from benchkit.errors import UserError, unknown
from benchkit.hub.models import fetched_encoders, fetched_folder
from benchkit.plugins import Plugins

RANDOM = "random:"
"""Before an encoder's name: the same architecture with untrained weights."""

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")  # what can be a repository's name


def open_encoder(name: str, plugins: Plugins) -> Encoder:
    """A plugin's encoder by name, a folder, a folder's name inside `$BENCHKIT_WEIGHTS`, or the id of a fetched one;
    untrained after `random:`.

    Raises:
        UserError: there is no such thing, or the checkpoint is not usable.
    """
    if name.startswith(RANDOM):
        return untrained(open_encoder(name.removeprefix(RANDOM), plugins))
    if name in plugins.encoders:
        return _made(name, plugins)
    folder = find_folder(name)
    if folder is None:
        fetch = f"; if it is on Hugging Face: benchkit encoders fetch {name}" if _ID.fullmatch(name) else ""
        if "/" in name or os.sep in name:
            raise UserError(
                f"no encoder at {name}: give a folder with config.json, model.safetensors and vocab.txt{fetch}"
            )
        known = [*plugins.encoders, *(folder.name for folder in weights_folders()), *fetched_encoders()]
        raise UserError(
            f"{unknown('encoder', name, known)}; or give a folder with config.json, model.safetensors and "
            f"vocab.txt{fetch}"
        )
    return load_encoder(folder)


def _made(name: str, plugins: Plugins) -> Encoder:
    """What a plugin's `load` makes, or one line that says whose it is and why it does not."""
    whose = f"encoder {name!r} of {plugins.owners['encoder', name]}"
    try:
        encoder = plugins.encoders[name].load()
    except UserError as error:
        raise UserError(f"{whose}: {error}") from error
    except Exception as error:  # a stranger's plugin may raise anything
        text = " ".join(str(error).split())
        raise UserError(f"{whose} cannot be loaded: {type(error).__name__}: {text}") from error
    if not isinstance(encoder, Encoder):
        raise UserError(f"{whose}: load() returned {encoder!r:.60}, not an Encoder (see benchkit.encoder.load_encoder)")
    return encoder


def find_folder(name: str) -> Path | None:
    """The folder that an encoder name stands for, or None."""
    weights = os.environ.get("BENCHKIT_WEIGHTS")
    places = [Path(name).expanduser(), *([Path(weights) / name] if weights else [])]
    found = next((place.resolve() for place in places if place.is_dir()), None)
    return found or fetched_folder(name)


def weights_folders() -> list[Path]:
    """The encoders in `$BENCHKIT_WEIGHTS`."""
    weights = os.environ.get("BENCHKIT_WEIGHTS")
    if not weights or not Path(weights).is_dir():
        return []
    return sorted(each for each in Path(weights).iterdir() if (each / "config.json").is_file())
