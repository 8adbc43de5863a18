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
from benchkit.core.settings import read_json

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


def load_tokenizer(folder: Path, vocab_size: int) -> tuple[Tokenizer, tuple[str, ...]]:
    """From `tokenizer.json` or else `vocab.txt`, and notes on what it was taken to be.

    `tokenizer_config.json` says how texts are normalised. Tokens that were added later come from it or from
    `added_tokens.json`, as in transformers.

    Raises:
        UserError: neither is there, a file cannot be read, or it does not fit `vocab_size` embeddings.
    """
    path = next((p for name in ("tokenizer.json", "vocab.txt") if (p := folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder}: no tokenizer.json and no vocab.txt; one of them is needed")
    settings = _settings(folder / "tokenizer_config.json")
    notes = []
    if path.name == "vocab.txt":
        vocab = _read_vocab(path)
        tokenizer = wordpiece(vocab, str(path), settings)
        cased = sum(piece != piece.lower() for piece in vocab if not piece.startswith("["))
        if "do_lower_case" not in settings and cased > len(vocab) / 100:
            notes.append(
                'vocab.txt has word pieces in upper case and no tokenizer_config.json says "do_lower_case": false, so '
                "texts are lower-cased"
            )
    else:
        tokenizer = _from_json(path, settings)
    _add_tokens(tokenizer, folder, settings)
    pieces = max(tokenizer.get_vocab().values()) + 1
    if pieces > vocab_size:
        raise UserError(f"{path}: has {pieces} word pieces, but config.json says vocab_size {vocab_size}")
    # Tables are often padded for speed, to a multiple of up to 128.
    if pieces < vocab_size and (vocab_size % 8 or vocab_size - pieces >= 128):
        notes.append(f"{path.name} has {pieces:,} word pieces for {vocab_size:,} embeddings: is it of this checkpoint?")
    return tokenizer, tuple(notes)


_FLAGS = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "handle_chinese_chars": "tokenize_chinese_chars",
}
"""Of `tokenizer_config.json`, by the names of the `tokenizers` library."""


def _settings(path: Path) -> dict[str, Any]:
    """`tokenizer_config.json` where it is there; of a flag that is null, the default counts."""
    values = read_json(path) if path.is_file() else {}
    for name in _FLAGS.values():
        if not isinstance(values.get(name), bool | None):
            raise UserError(f"{path}: {name} must be true or false, not {values[name]!r:.40}")
    # Null is a value of strip_accents: as lower-casing has it.
    return {name: value for name, value in values.items() if value is not None or name == "strip_accents"}


def _read_vocab(path: Path) -> list[str]:
    """A word piece a line; blank lines at the end are none."""
    try:
        pieces = path.read_text(encoding="utf-8-sig").split("\n")  # any line ends; not splitlines(): see U+2028
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    while pieces and not pieces[-1]:
        pieces.pop()
    return pieces


def _from_json(path: Path, settings: dict[str, Any]) -> Tokenizer:
    content = read_json(path)
    normalizer = content.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        # The settings win over the file, as in transformers.
        for name, setting in _FLAGS.items():
            normalizer[name] = settings.get(setting, normalizer.get(name))
    try:
        tokenizer = Tokenizer.from_str(json.dumps(content))
        tokenizer.no_padding()
        empty = tokenizer.encode("").tokens
    except BaseException as error:  # the library raises nothing narrower, and panics, which are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{path}: is not a tokenizer that can be read: {error}") from None
    if empty != ["[CLS]", "[SEP]"]:
        raise UserError(f"{path}: does not put [CLS] and [SEP] around a sentence; it is not the tokenizer of a BERT")
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, folder: Path, settings: dict[str, Any]) -> None:
    """Make one token each of those that the folder's files add and the tokenizer does not have yet.

    Raises:
        UserError: the files cannot be read, or give a token another id than the next one.
    """
    path = folder / "added_tokens.json"
    if "added_tokens_decoder" in settings:
        path = folder / "tokenizer_config.json"
        wanted = _by_id(settings["added_tokens_decoder"], path)
    elif path.is_file():
        special = _special(settings)
        if (names := folder / "special_tokens_map.json").is_file():
            special |= _special(read_json(names))
        tokens = ((at, AddedToken(text, normalized=text not in special, special=text in special))
                  for text, at in read_json(path).items())  # fmt: skip
        wanted = dict(tokens)
    else:
        return
    if not all(isinstance(at, int) and token.content for at, token in wanted.items()):
        raise UserError(f"{path}: a token is not empty, and its id a whole number")
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for at, token in sorted(wanted.items()):
        if token.content in known:
            continue
        tokenizer.add_tokens([token])
        if (found := tokenizer.token_to_id(token.content)) != at:
            raise UserError(f"{path}: gives {token.content!r:.40} the id {at}, but the vocabulary makes it {found}")


def _by_id(values: Any, path: Path) -> dict[Any, AddedToken]:
    """`added_tokens_decoder`: ids, and the tokens as dictionaries."""
    try:
        return {int(at): AddedToken(**token) for at, token in values.items()}
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{path}: added_tokens_decoder is not a dictionary of ids and tokens") from None


def _special(values: dict[str, Any]) -> set[str]:
    """The texts of all tokens that a configuration names for a purpose."""
    more = values.get("extra_special_tokens")  # not `additional_special_tokens`: transformers 5 does not heed it here
    named = [
        *(value for name, value in values.items() if name.endswith("_token")),
        *(more if isinstance(more, list) else ()),
    ]
    texts = (value.get("content") if isinstance(value, dict) else value for value in named)
    return {text for text in texts if isinstance(text, str)}
