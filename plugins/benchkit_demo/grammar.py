"""Synthetic data: what the three generators share.

The sentences are made from small grammars, so that the package shows its whole path without a download. They are
meant to be learnable and not easy; no number on them says anything about real language.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from benchkit.core.rng import derive
from benchkit.core.task import Example

T = TypeVar("T")
Plan = TypeVar("Plan")

SIZES: Mapping[str, int] = {"train": 1500, "dev": 400, "test": 600}
_PATIENCE = 10_000


class Dice:
    """A random stream that is the same in every Python: only `Random.random` is guaranteed not to change."""

    def __init__(self, seed: int, *stream: str) -> None:
        self._random = Random(derive(seed, *stream)).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, values: Sequence[T]) -> T:
        return values[int(self._random() * len(values))]

    def other(self, values: Sequence[T], than: T) -> T:
        """One of `values` that is not `than`."""
        return self.pick([value for value in values if value != than])

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """`count` distinct positions of `values`, in their order."""
        left = list(range(len(values)))
        chosen = sorted(left.pop(int(self._random() * len(left))) for _ in range(count))
        return [values[index] for index in chosen]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, by weight."""
        mark = self._random() * sum(weights)
        for index, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return index
        return len(weights) - 1

    def normal(self) -> float:
        """Near enough a standard normal: twelve uniforms, so within ±6."""
        return sum(self._random() for _ in range(12)) - 6.0


@dataclass(frozen=True)
class Draw:
    """What a generator says: texts and label."""

    texts: tuple[str, ...]
    label: float


def build(
    task: str,
    seed: int,
    sizes: Mapping[str, int],
    plan: Callable[[Dice], Plan],
    say: Callable[[Dice, Plan], Draw],
) -> dict[str, list[Example]]:
    """Splits without a text in common and without a repeated example.

    `plan` is drawn once an example, `say` until the text is new, so that refusals do not shift what was planned.
    """
    splits: dict[str, list[Example]] = {}
    earlier: set[str] = set()
    for name, size in sizes.items():
        dice = Dice(seed, "demo", task, name)
        own: dict[tuple[str, ...], Example] = {}
        while len(own) < size:
            planned = plan(dice)
            for _ in range(_PATIENCE):
                draw = say(dice, planned)
                if draw.texts not in own and not earlier.intersection(draw.texts):
                    break
            else:
                raise ValueError(f"the grammar of {task} has too few sentences for {size} {name} examples")
            own[draw.texts] = Example(f"{name}-{len(own) + 1}", draw.texts, draw.label)
        earlier.update(text for texts in own for text in texts)
        splits[name] = list(own.values())
    return splits


PROPER = (
    *("i", "english", "french", "python", "india", "canada", "france", "germany", "spain", "china", "japan"),
    *("egypt", "kenya", "monday", "tuesday"),
)


def sentence(words: str, end: str = ".") -> str:
    """With capitals and an end; spaces tidied, `a` before a vowel made `an`."""
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(words.split()))
    text = re.sub(r"\w+", lambda word: word[0].capitalize() if word[0] in PROPER else word[0], text)
    return text[0].upper() + text[1:] + end


def words_in(lexicon: Any) -> set[str]:
    """All words of nested tables, `{fields}` of templates left out."""
    if isinstance(lexicon, str):
        return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", lexicon.lower())))
    if isinstance(lexicon, Mapping):
        return words_in([*lexicon.keys(), *lexicon.values()])
    if isinstance(lexicon, Iterable):
        return set[str]().union(*(words_in(each) for each in lexicon))
    return set()


def demo_words() -> list[str]:
    """Every word and mark of the demo data, sorted: the vocabulary of the demo encoder."""
    from benchkit_demo.sentences import QUORA_LEXICON, SST_LEXICON, STS_LEXICON

    words = words_in([SST_LEXICON, QUORA_LEXICON, STS_LEXICON])
    return sorted(words | {"a", "an", ".", ",", "?"})
