"""What a plugin returns to offer an encoder by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchkit.encoder.encoder import Encoder


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder that can be asked for by name.

    Attributes:
        name: what `--encoder` takes.
        summary: one line for lists.
        load: makes it; called only when the encoder is used.
    """

    name: str
    summary: str
    load: Callable[[], Encoder]
