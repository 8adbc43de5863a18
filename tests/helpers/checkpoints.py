"""A tiny encoder's vocabulary and sizes."""

from __future__ import annotations

from benchkit.encoder import BertConfig

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a"]
CONFIG = BertConfig(len(VOCAB), 32, 2, 4, 64, 32)
