"""A WordPiece vocabulary of one's own, the same from the same texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, models, trainers

from benchkit.encoder.tokenizer import SPECIAL, wordpiece
from benchkit.errors import UserError

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
