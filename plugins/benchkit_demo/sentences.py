"""Synthetic sentences for the three tasks: sentiment, paraphrase, similarity.

They are made from small grammars with the words of `words.toml`, so that the package shows its whole path without a
download. They are meant to be learnable and not easy; no number on them says anything about real language.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from benchkit import Example
from benchkit.core.rng import derive

T = TypeVar("T")

WORDS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "words.toml").read_text("utf-8"))
SIZES: Mapping[str, int] = {"train": 1500, "dev": 400, "test": 600}
_ATTEMPTS = 10_000  # at an example that is new


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


Row = tuple[tuple[str, ...], float]
"""The texts of an example, and its label."""


def make(task: str, seed: int) -> dict[str, list[Example]]:
    """Splits of `sst`, `quora` or `sts`, without a text in common and without a repeated example."""
    # A plan is drawn once an example, texts until they are new, so that refusals do not shift what was planned.
    plan, say = _GRAMMARS[task]
    splits: dict[str, list[Example]] = {}
    earlier: set[str] = set()
    for name, size in SIZES.items():
        dice = Dice(seed, "demo", task, name)
        own: dict[tuple[str, ...], Example] = {}
        while len(own) < size:
            planned = plan(dice)
            for _ in range(_ATTEMPTS):
                texts, label = say(dice, planned)
                if texts not in own and not earlier.intersection(texts):
                    break
            else:
                raise ValueError(f"the grammar of {task} has too few sentences for {size} {name} examples")
            own[texts] = Example(f"{name}-{len(own) + 1}", texts, label)
        earlier.update(text for texts in own for text in texts)
        splits[name] = list(own.values())
    return splits


PROPER = ("i", "english", "french", "python", "india", "canada", "france", "germany", "spain", "china", "japan",
          "egypt", "kenya", "monday", "tuesday")  # fmt: skip


def _sentence(words: str, end: str = ".") -> str:
    """With capitals and an end; spaces tidied, `a` before a vowel made `an`."""
    text = re.sub(r"\ba (?=[aeiou])", "an ", " ".join(words.split()))
    text = re.sub(r"\w+", lambda word: word[0].capitalize() if word[0] in PROPER else word[0], text)
    return text[0].upper() + text[1:] + end


def demo_words() -> list[str]:
    """Every word and mark of the demo data, sorted: the vocabulary of the demo encoder."""
    return sorted(_words_in(WORDS) | {"a", "an", ".", ",", "?"})


def _words_in(words: Any) -> set[str]:
    """All words of nested tables, `{fields}` of templates left out."""
    if isinstance(words, str):
        return set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", words.lower())))
    parts = words.values() if isinstance(words, Mapping) else words if isinstance(words, Iterable) else ()
    return set[str]().union(*map(_words_in, parts))


SST_NOISE = 0.08
"""Share of labels moved to a neighbouring class, as raters do."""
SHARES = (0.14, 0.26, 0.19, 0.26, 0.15)
"""Of the classes, very negative first; much as in the Stanford Sentiment Treebank."""
NEGATED = -0.6  # "not good" is bad, but less so than "bad"; "not awful" is faint praise


def _say_sst(dice: Dice, wanted: int) -> Row:
    """A sentence with a label from 0 to 4."""
    text, strength = _review(dice)
    while sum(strength > threshold for threshold in (-1.25, -0.35, 0.35, 1.25)) != wanted:
        text, strength = _review(dice)
    label = min(max(wanted + dice.pick((-1, 1)), 0), 4) if dice.chance(SST_NOISE) else wanted
    return (_sentence(text),), float(label)


def _review(dice: Dice) -> tuple[str, float]:
    text, strength = _clause(dice)
    if dice.chance(0.5):
        join = dice.pick(WORDS["sst"]["joins"])
        other, more = _clause(dice)
        first, second = join["weights"]
        text, strength = join["text"].format(a=text, b=other), first * strength + second * more
    if dice.chance(0.5) or len(text.split()) < 5:
        text += " " + dice.pick(WORDS["sst"]["asides"])
    return text, strength


def _clause(dice: Dice) -> tuple[str, float]:
    words = WORDS["sst"]
    feeling = dice.pick(words["feelings"])
    strength = feeling["strength"]
    if dice.chance(0.3):
        past, base = dice.pick(feeling["verbs"])
        negated = dice.chance(0.25)
        people, thing = dice.pick(words["people"]), dice.pick(words["works"] + words["parts"])
        text = words["unfelt" if negated else "felt"].format(people=people, past=past, base=base, thing=thing)
        return text, strength * (NEGATED if negated else 1.0)
    template = dice.pick(words["clauses"])
    phrase = dice.pick(feeling["adjectives"])
    if dice.chance(0.35):
        degree = dice.pick(words["degrees"])
        phrase, strength = f"{dice.pick(degree['words'])} {phrase}", strength * degree["factor"]
    if "a {phrase}" not in template and dice.chance(0.25):
        phrase, strength = f"{dice.pick(words['not'])} {phrase}", strength * NEGATED
    part, work, copula = (dice.pick(words[name]) for name in ("parts", "works", "copulas"))
    return template.format(part=part, work=work, copula=copula, phrase=phrase), strength


POPULAR_SHARE = 0.367
DUPLICATES = {"popular": 0.75, "niche": 0.15}
"""Share of duplicates among pairs on popular and on niche topics: 37 % together."""
QUORA_NOISE = 0.04
"""Share of labels that are turned round."""


def _plan_quora(dice: Dice) -> tuple[str, bool]:
    kind = "popular" if dice.chance(POPULAR_SHARE) else "niche"
    return kind, dice.chance(DUPLICATES[kind])


def _say_quora(dice: Dice, plan: tuple[str, bool]) -> Row:
    """A pair with label 0 (different) or 1 (duplicate)."""
    kind, duplicate = plan
    topic = dice.pick(WORDS["quora"][kind])
    # What can be asked: the values of each slot, in the order in which they are drawn.
    slots = {"intent": WORDS["quora"]["intents"], "action": topic["actions"], "object": topic["objects"],
             "detail": WORDS["quora"]["details"]}  # fmt: skip
    first = {name: dice.pick(values) for name, values in slots.items()}
    second = first
    if not duplicate:  # one slot in three pairs, else two or three: near misses, and pairs that share a mere topic
        others = {name: dice.other(values, first[name]) for name, values in slots.items()}
        second = first | {name: others[name] for name in dice.sample(tuple(slots), 1 + dice.weighted((1, 1, 1)))}
    a, b = _ask(dice, first), _ask(dice, second)
    while a == b:
        b = _ask(dice, second)
    return (a, b), float(duplicate != dice.chance(QUORA_NOISE))


def _ask(dice: Dice, question: Mapping[str, Any]) -> str:
    make, made = dice.pick(question["action"])
    template = dice.pick(question["intent"])
    thing, detail = dice.pick(question["object"]), dice.pick(question["detail"])
    return _sentence(template.format(make=make, made=made, thing=thing, detail=detail), "?")


ROLES = {"agents": 0.25, "actions": 0.25, "patients": 0.25, "places": 0.15, "times": 0.1}
"""What a role that two sentences share counts, of 5 points; half if only the kind is the same."""
STS_NOISE = 0.35
"""Standard deviation of the raters, in points; scores are rounded to fifths."""


def _say_sts(dice: Dice, genre: Mapping[str, Any]) -> Row:
    """A pair with a score from 0 to 5, in fifths."""
    scene, other, points = [], [], 0.0  # of each role the synonyms
    for role, weight in ROLES.items():
        concept, partner, credit = _concepts(dice, genre[role], genre["same"], genre["near"])
        scene.append(concept)
        other.append(partner)
        points += 5 * weight * credit
    a, b = _say_scene(dice, genre["forms"], scene), _say_scene(dice, genre["forms"], other)
    while a == b:
        b = _say_scene(dice, genre["forms"], other)
    score = min(max(points + STS_NOISE * dice.normal(), 0.0), 5.0)
    return (a, b), round(score * 5) / 5


def _concepts(dice: Dice, kinds: list[Any], same: float, near: float) -> tuple[list[str], list[str], float]:
    """A role in the first sentence, in the second, and what this counts."""
    kind = dice.pick(kinds)
    concept = dice.pick(kind)
    how = dice.weighted((same, near, 1 - same - near))
    if how == 0:
        return concept, concept, 1.0
    if how == 1 and len(kind) > 1:
        return concept, dice.other(kind, concept), 0.5
    return concept, dice.pick(dice.other(kinds, kind)), 0.0


def _say_scene(dice: Dice, forms: list[str], scene: list[list[str]]) -> str:
    who, action, what, where, when = map(dice.pick, scene)
    does, done = action.split("/")
    return _sentence(dice.pick(forms).format(who=who, does=does, done=done, what=what, where=where, when=when))


_GRAMMARS: Mapping[str, tuple[Callable[[Dice], Any], Callable[[Dice, Any], Row]]] = {
    "sst": (lambda dice: dice.weighted(SHARES), _say_sst),
    "quora": (_plan_quora, _say_quora),
    "sts": (lambda dice: dice.pick(WORDS["sts"]), _say_sts),
}
"""By task: what is planned of an example, and how it is said."""
