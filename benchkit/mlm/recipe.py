"""What can be chosen about a pre-training, as frozen data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from benchkit.protocol import Phase


@dataclass(frozen=True)
class Recipe:
    """How an encoder is pre-trained.

    Attributes:
        layers, hidden, heads, vocab_size, cased: of a new encoder; a continued one keeps its own.
        max_length: word pieces of a sequence, `[CLS]` and `[SEP]` included; longer texts become several sequences.
        dropout: of a new encoder, in its config too.
        steps: of the optimiser; 0 takes as many as `epochs` needs.
        epochs: passes over the texts.
        batch: word pieces a step, at most.
        warmup: share of the steps in which the rate rises.
        mask: share of the word pieces (with `whole_word`, of the words) that are to be predicted.
        held_out: share of the texts that are never trained on.
        every: steps between two looks at the held-out texts, each with a checkpoint; 0 makes it fifty in all.
    """

    layers: int = 4
    hidden: int = 256
    heads: int = 4
    vocab_size: int = 8000
    cased: bool = False
    max_length: int = 128
    dropout: float = 0.1
    steps: int = 0
    epochs: float = 3.0
    batch: int = 4096
    learning_rate: float = 5e-4
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    mask: float = 0.15
    whole_word: bool = False
    held_out: float = 0.01
    every: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low in (("vocab_size", 1), ("max_length", 4), ("steps", 0), ("batch", 8), ("every", 0), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"epochs must be more than 0, not {self.epochs}")
        for name in ("mask", "held_out"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        self.phase()  # checks the rest

    def phase(self) -> Phase:
        """What the optimiser and its schedule need to know."""
        return Phase(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=self.warmup,
            clip=self.clip,
        )
