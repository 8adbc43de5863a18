"""The embedded encoder: a miniBERT of 4 layers of 128, pre-trained by the project and shipped with it.

Its texts are the training splits of the three tasks and nothing else; `docs/pretrain.md` has the command, its log and
what its frozen features are worth.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from benchkit.encoder import Encoder, EncoderSpec


def _load() -> Encoder:
    from benchkit.encoder import load_encoder

    return load_encoder(Path(__file__).parent / "embedded")


@hookimpl
def benchkit_encoders() -> list[EncoderSpec]:
    from benchkit.encoder import EncoderSpec

    summary = "4 layers of 128, pre-trained on the training texts of the three tasks; no download."
    return [EncoderSpec("embedded", summary, _load)]
