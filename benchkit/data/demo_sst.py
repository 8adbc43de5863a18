"""Synthetic sentiment: film reviews whose words have graded strength, with degrees, negation and contrast."""

from __future__ import annotations

from collections.abc import Mapping

from benchkit.data.demo import SIZES, Dice, Draw, build, sentence
from benchkit.task import Example

NOISE = 0.08
"""Share of labels moved to a neighbouring class, as raters do."""
SHARES = (0.14, 0.26, 0.19, 0.26, 0.15)
"""Of the classes, very negative first; much as in the Stanford Sentiment Treebank."""

ADJECTIVES: Mapping[float, tuple[str, ...]] = {
    2.0: ("brilliant", "superb", "wonderful", "stunning", "masterful", "delightful", "magnificent"),
    1.0: ("good", "charming", "enjoyable", "clever", "funny", "touching", "pleasant", "solid"),
    0.0: ("long", "recent", "quiet", "foreign", "modern", "familiar", "short"),
    -1.0: ("slow", "dull", "weak", "uneven", "clumsy", "forgettable", "bland", "thin"),
    -2.0: ("awful", "terrible", "dreadful", "horrible", "unbearable", "atrocious", "painful"),
}
# Past tense, and the form after "did not".
VERBS: Mapping[float, tuple[tuple[str, str], ...]] = {
    2.0: (("adored", "adore"), ("loved", "love")),
    1.0: (("enjoyed", "enjoy"), ("liked", "like"), ("admired", "admire")),
    0.0: (("watched", "watch"), ("noticed", "notice"), ("discussed", "discuss")),
    -1.0: (("disliked", "dislike"), ("regretted", "regret")),
    -2.0: (("hated", "hate"), ("loathed", "loathe")),
}
DEGREES = ((1.5, ("very", "truly", "remarkably")), (0.6, ("slightly", "somewhat", "rather")))
NOT = ("not", "never", "hardly")
NEGATED = -0.6  # "not good" is bad, but less so than "bad"; "not awful" is faint praise

WORKS = ("film", "movie", "picture", "comedy", "drama", "thriller", "story")
PARTS = ("plot", "script", "dialogue", "acting", "cast", "music", "direction", "ending", "camera work", "humor")
PEOPLE = ("i", "we", "critics", "many viewers", "the audience", "my friends")
COPULAS = ("is", "was", "feels", "seems")
ASIDES = (
    "from start to finish", "in the second half", "for most of its two hours", "on a rainy evening", "at the festival",
    "after the first few scenes", "in the final act", "for the first hour", "in every scene", "this time",
)  # fmt: skip
CLAUSES = ("the {part} {copula} {phrase}", "the {work} {copula} {phrase}", "this is a {phrase} {work}")
FEELING, UNFELT = "{people} {past} the {thing}", "{people} did not {base} the {thing}"
# The first and the second clause count by these weights.
JOINS = (
    ("{a} and {b}", 0.8, 0.8),
    ("{a}, but {b}", 0.4, 1.1),
    ("although {a}, {b}", 0.4, 1.1),
)
LEXICON = (
    tuple(ADJECTIVES.values()), tuple(VERBS.values()), DEGREES, NOT, WORKS, PARTS, PEOPLE, COPULAS, ASIDES, CLAUSES,
    FEELING, UNFELT, JOINS,
)  # fmt: skip


def make_sst(seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Example]]:
    """Sentences with labels 0 to 4."""
    return build("sst", seed, sizes, lambda dice: dice.weighted(SHARES), _say)


def _say(dice: Dice, wanted: int) -> Draw:
    while True:
        text, strength = _review(dice)
        if _class(strength) == wanted:
            break
    label = wanted
    if dice.chance(NOISE):
        label = min(max(wanted + dice.pick((-1, 1)), 0), 4)
    return Draw((sentence(text),), float(label))


def _class(strength: float) -> int:
    return sum(strength > threshold for threshold in (-1.25, -0.35, 0.35, 1.25))


def _review(dice: Dice) -> tuple[str, float]:
    text, strength = _clause(dice)
    if dice.chance(0.5):
        join, first, second = dice.pick(JOINS)
        other, more = _clause(dice)
        text, strength = join.format(a=text, b=other), first * strength + second * more
    if dice.chance(0.5) or len(text.split()) < 5:
        text += " " + dice.pick(ASIDES)
    return text, strength


def _clause(dice: Dice) -> tuple[str, float]:
    strength = dice.pick(tuple(ADJECTIVES))
    if dice.chance(0.3):
        past, base = dice.pick(VERBS[strength])
        negated = dice.chance(0.25)
        text = (UNFELT if negated else FEELING).format(
            people=dice.pick(PEOPLE), past=past, base=base, thing=dice.pick(WORKS + PARTS)
        )
        return text, strength * (NEGATED if negated else 1.0)
    template = dice.pick(CLAUSES)
    phrase = dice.pick(ADJECTIVES[strength])
    if dice.chance(0.35):
        factor, degrees = dice.pick(DEGREES)
        phrase, strength = f"{dice.pick(degrees)} {phrase}", strength * factor
    if "a {phrase}" not in template and dice.chance(0.25):
        phrase, strength = f"{dice.pick(NOT)} {phrase}", strength * NEGATED
    text = template.format(part=dice.pick(PARTS), work=dice.pick(WORKS), copula=dice.pick(COPULAS), phrase=phrase)
    return text, strength
