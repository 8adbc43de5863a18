"""Texts for masked-language-model pre-training: lines, word pieces, masks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, trainers
from torch import Tensor

from benchkit.core.errors import UserError, unknown
from benchkit.core.rng import generator
from benchkit.core.task import TaskSpec
from benchkit.data.readers import DEMO, check_folder, find_columns, find_splits, load_demo, load_files, load_own
from benchkit.data.tables import read_table, unpack
from benchkit.encoder import Tokenized
from benchkit.encoder.tokenizer import SPECIAL, wordpiece

TABLES = (".tsv", ".csv", ".jsonl", ".parquet")
_USUAL = ("text", "sentence", "sentence1", "sentence2")


@dataclass(frozen=True)
class Source:
    """One file, or one task's training split; `sha256` is of the file's bytes."""

    name: str
    sha256: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """Distinct texts in the order of their sources, the held-out ones apart."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 over all texts: equal means that the same is trained on and the same held out."""
        digest = hashlib.sha256()
        for part in (self.train, self.held_out):
            digest.update(len(part).to_bytes(8, "little"))
            for text in part:
                data = text.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()


def split_texts(sources: Sequence[Source], share: float) -> Texts:
    """Distinct texts; held out are those with the lowest hashes, so the same ones whatever stands beside them.

    Raises:
        UserError: there are not two distinct texts.
    """
    distinct = list(dict.fromkeys(text for source in sources for text in source.texts))
    if len(distinct) < 2:
        names = ", ".join(source.name for source in sources)
        raise UserError(f"{names}: {len(distinct)} distinct texts; at least two are needed, one to be held out")
    by_hash = sorted(distinct, key=lambda text: hashlib.sha256(text.encode()).digest())
    count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
    held_out = set(by_hash[:count])
    return Texts(
        tuple(text for text in distinct if text not in held_out),
        tuple(text for text in distinct if text in held_out),
        tuple(sources),
    )


def read_file(path: Path, columns: Sequence[str] = ()) -> Source:
    """The texts of a table's columns, or else the lines of a plain file; empty ones are left out; each may be `.gz`.

    Args:
        columns: of a table, found in any case; by default those of text, sentence, sentence1, sentence2 that it has.

    Raises:
        UserError: the file cannot be read or is not UTF-8, or the table has no such column.
    """
    if Path(path.name.removesuffix(".gz")).suffix in TABLES:
        return _table(path, columns)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        text = (unpack(data, path) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert the file to UTF-8") from error
    if "\0" in text:
        raise UserError(f"{path} holds a NUL byte: not a text file, or not whole")
    return Source(path.name, sha256, _stripped(text.split("\n")))


def _table(path: Path, columns: Sequence[str]) -> Source:
    table = read_table(path)
    places = {name: next(iter(find_columns(table, [name])), None) for name in columns or _USUAL}
    missing = [name for name in columns if places[name] is None]
    if missing:
        raise UserError(f"{path}: {unknown('column', missing[0], table.columns)}")
    numbers = [place for place in places.values() if place is not None]
    if not numbers:
        raise UserError(f"{path} has columns {', '.join(table.columns)}: say with --column which hold text")
    cells = (row[number] for _, row in table.rows for number in numbers)
    return Source(path.name, table.sha256, _stripped(cell for cell in cells if isinstance(cell, str)))


def read_tasks(data: str, tasks: Sequence[TaskSpec]) -> list[Source]:
    """The texts of the training splits, and of no other split: dev and test are not even opened.

    Raises:
        UserError: no such folder, or none of the tasks has a training split in it.
    """
    sources = []
    if data != DEMO:
        check_folder(Path(data))
    for task in tasks:
        if data == DEMO:
            split = load_demo(task)["train"]
        elif "train" in (found := find_splits(Path(data), task)):
            split = load_files(Path(data), {"train": found["train"]}, task)["train"]
        elif task.data is not None:
            split = load_own(task)["train"]
        else:
            continue
        texts = _stripped(text for row in split.texts for text in row)
        sources.append(Source(f"{task.name}/train", split.sha256, texts))
    if not sources:
        names = ", ".join(task.name for task in tasks) or "none is installed"
        raise UserError(f"no training split of any task in {data} (tasks: {names})")
    return sources


def _stripped(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(stripped for text in texts if (stripped := text.strip()))


_TOGETHER = 8192  # texts a call: what the library gives back takes a hundred times the text's memory


def sequences(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Tokenized:
    """Every text in full, in order, `[CLS]` before and `[SEP]` after each sequence."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocab = tokenizer.get_vocab()
    first, last = vocab["[CLS]"], vocab["[SEP]"]
    longest, parts, lengths = max_length - 2, list[np.ndarray](), list[int]()
    for start in range(0, len(texts), _TOGETHER):
        flat: list[int] = []
        for encoding in tokenizer.encode_batch(list(texts[start : start + _TOGETHER]), add_special_tokens=False):
            for begin in range(0, len(encoding), longest):
                part = encoding.ids[begin : begin + longest]
                flat += [first, *part, last]
                lengths.append(len(part) + 2)
        parts.append(np.array(flat, np.int32))
    ids = torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.int32)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Tokenized(ids, torch.zeros(len(ids), dtype=torch.uint8), offsets, 0)


def batches(lengths: Tensor, size: int, seed: int, epoch: int) -> list[Tensor]:
    """Rows (batch,) int64 of each batch of an epoch, every row once: a function of seed and epoch."""
    return pack(torch.randperm(len(lengths), generator=generator(seed, "order", epoch)), lengths, size)


def pack(order: Tensor, lengths: Tensor, size: int) -> list[Tensor]:
    """Neighbours in `order`, at most `size` word pieces together (but at least one row), by length within."""
    ends = lengths[order].cumsum(0)
    start, done, result = 0, 0, []
    while start < len(order):
        stop = max(start + 1, int(torch.searchsorted(ends, done + size, right=True)))
        rows = order[start:stop]
        result.append(rows[lengths[rows].argsort(stable=True)])
        start, done = stop, int(ends[stop - 1])
    return result


@dataclass(frozen=True)
class Pieces:
    """What masking must know of a vocabulary.

    Attributes:
        mask: id of `[MASK]`.
        special: (vocab,) bool; these are never hidden.
        starts: (vocab,) bool; where a word, or a special piece, begins.
        ordinary: ids that can stand in for another.
    """

    mask: int
    special: Tensor
    starts: Tensor
    ordinary: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, size: int, device: torch.device) -> Pieces:
        """Of a tokenizer; `size` is that of the embeddings, which may have rows to spare.

        Raises:
            UserError: it has no `[MASK]`.
        """
        vocab = tokenizer.get_vocab()
        if "[MASK]" not in vocab:
            raise UserError("the encoder's vocabulary has no [MASK]: it cannot be pre-trained on masked words")
        special, starts = torch.ones(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
        for piece, number in vocab.items():
            special[number] = piece.startswith("[") and piece.endswith("]") and len(piece) > 2
            starts[number] = not piece.startswith("##")
        return cls(vocab["[MASK]"], special.to(device), starts.to(device), (~special).nonzero().squeeze(1).to(device))


def mask(ids: Tensor, pieces: Pieces, rate: float, whole_word: bool, stream: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the encoder sees, (total,), and the positions (n,) it must predict, at least one.

    Of the pieces chosen, eight in ten become `[MASK]`, one a random piece, one stays.

    Args:
        whole_word: choose words with all their pieces, instead of pieces.
        stream: on the CPU, so that all devices draw the same.
    """
    draw, kind = (torch.rand(len(ids), generator=stream).to(ids.device) for _ in range(2))
    other = torch.randint(len(pieces.ordinary), (len(ids),), generator=stream).to(ids.device)
    if whole_word:
        draw = draw[pieces.starts[ids].cumsum(0) - 1]
    draw = draw.masked_fill(pieces.special[ids], 2.0)
    chosen = (draw < rate) | (draw == draw.min())
    seen = torch.where(chosen & (kind < 0.8), pieces.mask, ids)
    seen = torch.where(chosen & (kind >= 0.9), pieces.ordinary[other].to(ids.dtype), seen)
    return seen, chosen.nonzero().squeeze(1)


# Share of all letters that the vocabulary must be able to spell (Kudo & Richardson 2018); the rest are [UNK].
_COVERAGE = 0.9995


def train_vocab(texts: Sequence[str], size: int, cased: bool) -> list[str]:
    """At most `size` word pieces in the order of their ids: special ones, characters, then what is merged from them.

    The library's trainer counts words in a hash map of random order and numbers the characters as it meets them; the
    numbers then decide between pairs of equal frequency. Given all characters beforehand, in order, it has no choice.

    Raises:
        UserError: `size` does not hold the characters.
    """
    base = wordpiece(SPECIAL, "vocabulary", {"do_lower_case": not cased})
    words = _count_words(base, texts)
    first, later = Counter[str](), Counter[str]()
    for word, count in words.items():
        first[word[0]] += count
        for letter in word[1:]:
            later[letter] += count
    alphabet = _covering(first + later)
    inner = [f"##{letter}" for letter in alphabet if letter in later]
    least = len(SPECIAL) + len(alphabet) + len(inner)
    if size < least:
        raise UserError(f"a vocabulary of {size} does not hold the {least} special pieces and characters of the texts")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = base.normalizer, base.pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = tokenizer.get_vocab()
    return sorted(pieces, key=pieces.__getitem__)


def _count_words(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[str]:
    normalizer, splitter = tokenizer.normalizer, tokenizer.pre_tokenizer
    assert normalizer is not None
    assert splitter is not None
    words = Counter[str]()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    return words


def _covering(letters: Counter[str]) -> list[str]:
    """The most frequent characters, until they make up the coverage; sorted."""
    needed, chosen = _COVERAGE * letters.total(), list[str]()
    for letter, count in sorted(letters.items(), key=lambda item: (-item[1], item[0])):
        if needed <= 0:
            break
        chosen.append(letter)
        needed -= count
    return sorted(chosen)
