"""Pre-training, part by part: texts, vocabulary, sequences, masks, the head."""

from __future__ import annotations

import gzip
import math
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.rng import generator
from benchkit.data import tables
from benchkit.encoder import BertConfig, random_encoder
from benchkit.encoder.tokenizer import SPECIAL, wordpiece
from benchkit.pretraining.masked_lm import HeldOut, MaskedLm, frequencies
from benchkit.pretraining.texts import (
    Pieces,
    Source,
    batches,
    mask,
    read_file,
    read_tasks,
    sequences,
    split_texts,
    train_vocab,
)

CPU = torch.device("cpu")
VOCAB = [*SPECIAL, *"abcdefgh", "##b", "##c"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return wordpiece(VOCAB, "test")


def test_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n two \u2028 words\n".encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"three\n"))
    (tmp_path / "c.tsv").write_text('id\ttext\tsentence2\n1\tfour "\tfive\n')
    (tmp_path / "d.jsonl").write_text('{"body": "six", "n": 1}\n{"body": null}\n')
    assert read_file(tmp_path / "a.txt").texts == ("one", "two \u2028 words")
    assert read_file(tmp_path / "b.txt.gz").texts == ("three",)
    assert read_file(tmp_path / "c.tsv").texts == ('four "', "five")
    assert read_file(tmp_path / "c.tsv", ["sentence2"]).texts == ("five",)
    assert read_file(tmp_path / "d.jsonl", ["body"]).texts == ("six",)


def test_columns_are_found_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ID, Sentence1 ,TEXT\n1,one,two\n")
    assert read_file(tmp_path / "a.csv").texts == ("two", "one")
    assert read_file(tmp_path / "a.csv", ["Text"]).texts == ("two",)


@pytest.mark.parametrize("name", ["a.txt.gz", "a.tsv.gz"])
def test_what_unpacks_to_too_much_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "UNPACKED", 2**20)
    (tmp_path / name).write_bytes(gzip.compress(b"text\n" + b"a" * 2**21))
    with pytest.raises(UserError, match=rf"{name} unpacks to more than 1 MiB, the limit"):
        read_file(tmp_path / name)


def test_only_training_splits_are_opened(tmp_path: Path) -> None:
    (tmp_path / "sst").mkdir()
    (tmp_path / "sst" / "train.tsv").write_text("id\tsentence\tlabel\n1\tgood film\t4\n2\tbad\t0\n")
    for split in ("dev", "test"):
        (tmp_path / "sst" / f"{split}.tsv").write_bytes(b"\xff not even text")
    (found,) = read_tasks(str(tmp_path), list(load_plugins().tasks.values()))
    assert (found.name, found.texts) == ("sst/train", ("good film", "bad"))


def test_held_out_are_the_same_texts_whatever_stands_beside_them() -> None:
    few, more = ([f"text {number}" for number in range(count)] for count in (200, 400))
    small = split_texts([Source("a", "", tuple(few))], 0.1)
    large = split_texts([Source("b", "", tuple(more)), Source("a", "", tuple(few))], 0.1)
    assert (len(small.held_out), len(large.held_out), len(large.train)) == (20, 40, 360)
    assert not set(small.held_out) & set(small.train)
    lowest = set(small.held_out) - set(large.held_out)
    assert len(lowest) < 20  # the same order by hash; only the share moves
    assert small.fingerprint != large.fingerprint


def test_a_vocabulary_is_the_same_whatever_the_order_of_the_words() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdeé", k=draw.randint(1, 6))) for _ in range(300)]
    texts = [" ".join(draw.choices(words, k=8)) + "!" for _ in range(400)]
    vocab = train_vocab(texts, 120, cased=False)
    assert len(vocab) == len(set(vocab)) == 120
    assert vocab[:5] == list(SPECIAL)
    assert "é" not in "".join(vocab)  # lower case, without accents
    assert "é" in "".join(train_vocab(texts, 120, cased=True))
    for _ in range(4):
        draw.shuffle(texts)
        assert train_vocab(texts, 120, cased=False) == vocab
    with pytest.raises(UserError, match="a vocabulary of 10 does not hold the 16 special pieces and characters"):
        train_vocab(texts, 10, cased=False)


def test_sequences_hold_every_word_piece_once(tokenizer: Tokenizer) -> None:
    found = sequences(tokenizer, ["a b c d e f", "", "abc h"], max_length=6)
    rows = [found.ids[start:end].tolist() for start, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]
    cls, sep = 2, 3
    assert rows == [[cls, 5, 6, 7, 8, sep], [cls, 9, 10, sep], [cls, 5, 13, 14, 12, sep]]


def test_an_epoch_s_batches_hold_every_row_once_and_are_full() -> None:
    lengths = torch.randint(3, 40, (500,), generator=generator(0, "test"))
    first, second = (batches(lengths, 256, seed=0, epoch=epoch) for epoch in (0, 1))
    assert sorted(torch.cat(first).tolist()) == list(range(500))
    sizes = [int(lengths[rows].sum()) for rows in first]
    assert max(sizes) <= 256
    assert min(sizes[:-1]) > 256 - 40
    assert all(lengths[rows].diff().ge(0).all() for rows in first)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], batches(lengths, 256, seed=0, epoch=0)[0])
    assert [len(rows) for rows in batches(lengths, 2, 0, 0)] == [1] * 500  # never less than a row


@pytest.mark.parametrize("whole_word", [False, True])
def test_masks_are_eight_in_ten_hidden_one_random_one_kept(tokenizer: Tokenizer, whole_word: bool) -> None:
    pieces = Pieces.of(tokenizer, len(VOCAB), CPU)
    ids = sequences(tokenizer, ["abc d e f g h abc"] * 4000, 32).ids
    seen, positions = mask(ids, pieces, 0.15, whole_word, generator(0, "test"))
    changed = seen != ids
    assert changed[positions].sum() == changed.sum()  # nothing else is touched
    assert not pieces.special[ids[positions]].any()
    assert len(positions) / int((~pieces.special[ids]).sum()) == pytest.approx(0.15, abs=0.01)
    hidden = seen[positions] == pieces.mask
    assert float(hidden.float().mean()) == pytest.approx(0.8, abs=0.02)
    # A random piece is the same one once in as many as there are.
    assert float((~changed[positions]).float().mean()) == pytest.approx(0.1 + 0.1 / 10, abs=0.02)
    whole = set(positions.tolist())
    words = [start for start in range(1, len(ids), 13) for start in (start, start + 8)]
    split = sum(len(whole & {start, start + 1, start + 2}) in (1, 2) for start in words)
    assert (split == 0) is whole_word


def test_one_word_is_masked_even_if_no_draw_is_low_enough(tokenizer: Tokenizer) -> None:
    pieces, ids = Pieces.of(tokenizer, len(VOCAB), CPU), sequences(tokenizer, ["a"], 8).ids
    for step in range(20):
        assert mask(ids, pieces, 0.01, False, generator(step, "test"))[1].tolist() == [1]


def test_a_fresh_head_predicts_frequencies_and_ties_its_outputs(tokenizer: Tokenizer) -> None:
    pieces = Pieces.of(tokenizer, len(VOCAB), CPU)
    held_out = HeldOut(sequences(tokenizer, ["a a a b", "a c a a a a b"] * 8, 16), pieces, CPU)
    shares = frequencies(sequences(tokenizer, ["a a a b a"], 16).ids, pieces.special)
    assert math.isclose(float(shares.sum()), 1, rel_tol=1e-6)
    config = BertConfig(len(VOCAB), 16, 1, 2, 32, 16, initializer_range=1e-3)
    model = MaskedLm(random_encoder("tiny", VOCAB, config, 0).model)
    model.start_head(shares, seed=0)
    by_model, alone = held_out.score(model, autocast=False), held_out.unigram(shares)
    assert by_model.loss == pytest.approx(alone.loss, abs=0.02)
    assert alone.accuracy == pytest.approx(float((held_out.targets == VOCAB.index("a")).float().mean()))
    assert [name for name, each in model.named_parameters() if each.numel() == len(VOCAB) * 16] == ["bert.word.weight"]


def test_a_vocabulary_without_mask_is_refused(tokenizer: Tokenizer) -> None:
    bare = Tokenizer.from_str(tokenizer.to_str().replace("[MASK]", "[MUSK]"))
    with pytest.raises(UserError, match=r"no \[MASK\]"):
        Pieces.of(bare, len(VOCAB), CPU)
