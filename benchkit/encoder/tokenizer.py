"""From texts to packed word pieces, with the `tokenizers` library (WordPiece in Rust, parallel over texts)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from benchkit.core.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SHORTEST = 4  # [CLS] a [SEP] b [SEP] needs three special pieces and one of text


@dataclass(frozen=True)
class Tokenized:
    """n inputs as word pieces, packed.

    Attributes:
        ids: (total,) int32.
        segments: (total,) uint8; 1 on the second sentence of a joint pair.
        offsets: (n + 1,) int64; input i is `offsets[i]:offsets[i + 1]`.
        truncated: how many inputs were cut to the longest length allowed.
    """

    ids: Tensor
    segments: Tensor
    offsets: Tensor
    truncated: int

    @property
    def lengths(self) -> Tensor:
        """(n,) int64, in word pieces, `[CLS]` and `[SEP]` included."""
        return self.offsets.diff()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, rows: Tensor) -> Tokenized:
        """The inputs `rows` (k,) int64 alone, in that order; `truncated` is not known of them and left as it is."""
        lengths = self.lengths[rows]
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64)
        offsets[1:] = lengths.cumsum(0)
        where = (self.offsets[rows] - offsets[:-1]).repeat_interleave(lengths) + torch.arange(int(offsets[-1]))
        return Tokenized(self.ids[where], self.segments[where], offsets, self.truncated)


def tokenize(tokenizer: Tokenizer, inputs: Sequence[tuple[str, ...]], max_length: int) -> Tokenized:
    """Sentences (1-tuples) and joint pairs (2-tuples) to word pieces; the longer sentence of a pair is cut first.

    Raises:
        UserError: an input is not a tuple of one or two strings, or `max_length` leaves no room for text.
    """
    if max_length < SHORTEST:
        raise UserError(f"max_length is {max_length}; it must be at least {SHORTEST} word pieces")
    for row, texts in enumerate(inputs):
        if not _is_input(texts):
            raise UserError(f"input {row} must be a tuple of one or two texts, not {texts!r:.80}")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    # `_fast` leaves out the character offsets; older releases do not have it.
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    encodings = encode([texts[0] if len(texts) == 1 else texts for texts in inputs])
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    offsets = np.zeros(len(encodings) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, offsets[-1])
    segments = np.zeros(len(ids), np.uint8)
    for row, texts in enumerate(inputs):
        if len(texts) == 2:
            segments[offsets[row] : offsets[row + 1]] = encodings[row].type_ids
    full = np.flatnonzero(lengths == max_length).tolist()
    truncated = sum(bool(encodings[row].overflowing) for row in full)
    return Tokenized(torch.from_numpy(ids), torch.from_numpy(segments), torch.from_numpy(offsets), truncated)


def _is_input(texts: object) -> bool:
    return isinstance(texts, tuple) and len(texts) in (1, 2) and all(isinstance(text, str) for text in texts)


def wordpiece(vocab: Sequence[str], where: str, settings: dict[str, Any] | None = None) -> Tokenizer:
    """BERT's tokenizer for a vocabulary in the order of its ids; lower-casing unless `settings` say otherwise.

    Args:
        where: names the vocabulary in messages.
        settings: the content of a `tokenizer_config.json`.

    Raises:
        UserError: a special piece is missing, or a piece is there twice.
    """
    ids = {piece: number for number, piece in enumerate(vocab)}
    missing = [piece for piece in SPECIAL if piece not in ids]
    if missing:
        raise UserError(f"{where}: the vocabulary has no {', '.join(missing)}; it is not one of a BERT")
    if len(ids) != len(vocab):
        raise UserError(f"{where}: {len(vocab) - len(ids)} word pieces are there twice")
    options = settings or {}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(piece, ids[piece]) for piece in ("[CLS]", "[SEP]")],
    )
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in SPECIAL])
    return tokenizer


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """From `tokenizer.json` or else `vocab.txt`, with the casing that `tokenizer_config.json` asks for.

    Raises:
        UserError: neither is there, one cannot be read, or it does not fit `vocab_size` embeddings.
    """
    path = next((p for name in ("tokenizer.json", "vocab.txt") if (p := folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no tokenizer.json and no vocab.txt; one of them is needed")
    extra = folder / "tokenizer_config.json"
    settings = read_json(extra) if extra.is_file() else {}
    if path.name == "vocab.txt":
        try:
            vocab = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        except UnicodeDecodeError:
            raise UserError(f"{path}: is not UTF-8 text") from None
        tokenizer = wordpiece([piece.removesuffix("\r") for piece in vocab], str(path), settings)
    else:
        tokenizer = _from_json(path, settings)
    _check_size(tokenizer, vocab_size, path)
    return tokenizer


def _from_json(path: Path, settings: dict[str, Any]) -> Tokenizer:
    content = read_json(path)
    normalizer = content.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        # The settings win over the file, as in transformers.
        for name, setting in (
            ("lowercase", "do_lower_case"),
            ("strip_accents", "strip_accents"),
            ("handle_chinese_chars", "tokenize_chinese_chars"),
        ):
            normalizer[name] = settings.get(setting, normalizer.get(name))
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # noqa: BLE001  (the library raises nothing narrower)
        raise UserError(f"{path}: is not a tokenizer that can be read: {error}".replace("\n", " ")) from None
    tokenizer.no_padding()
    if tokenizer.encode("").tokens != ["[CLS]", "[SEP]"]:
        raise UserError(f"{path}: does not put [CLS] and [SEP] around a sentence; it is not the tokenizer of a BERT")
    return tokenizer


def _check_size(tokenizer: Tokenizer, vocab_size: int, path: Path) -> None:
    pieces = max(tokenizer.get_vocab().values()) + 1
    # Tables are often padded for speed, to a multiple of up to 128; any other gap means a file of another checkpoint.
    padded = vocab_size % 8 == 0 and vocab_size - pieces < 128
    if pieces > vocab_size or (pieces < vocab_size and not padded):
        raise UserError(f"{path}: has {pieces} word pieces, but config.json says vocab_size {vocab_size}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: it cannot be read as one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is expected, not a {type(content).__name__}")
    return content
