"""Synthetic similarity: the weighted share of roles (who, does, what, where, when) that two sentences have in common.

As in the STS Benchmark, genres differ: captions of one scene are mostly alike, headlines mostly not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchkit.data.demo import SIZES, Dice, Draw, build, sentence
from benchkit.task import Example

WEIGHTS = (0.25, 0.25, 0.25, 0.15, 0.1)
"""Of agent, action, patient, place and time, of 5 points."""
NOISE = 0.35
"""Standard deviation of the raters, in points; scores are rounded to fifths."""

Concept = tuple[str, ...]
"""Synonyms. An action's are pairs `active/passive`."""
Role = tuple[tuple[Concept, ...], ...]
"""Kinds of concepts: two concepts of one kind count half."""


@dataclass(frozen=True)
class Genre:
    """How a kind of text speaks, and how much its pairs share.

    Attributes:
        roles: agent, action, patient, place, time.
        same: chance that a role is shared; `near` that it is of the same kind; the rest differs.
    """

    roles: tuple[Role, Role, Role, Role, Role]
    forms: tuple[str, ...]
    same: float
    near: float


CAPTIONS = Genre(
    roles=(
        ((("man", "gentleman"), ("woman", "lady"), ("boy",), ("girl",)),
         (("dog", "puppy"), ("monkey", "ape"), ("cat",))),
        (
            (("carrying/carried", "holding/held"), ("pulling/pulled", "dragging/dragged")),
            (("throwing/thrown", "tossing/tossed"), ("dropping/dropped",)),
            (("hiding/hidden", "burying/buried"), ("finding/found",)),
        ),
        (
            (("ball",), ("doll", "puppet"), ("kite",)),
            (("box", "crate"), ("bag", "sack"), ("basket",)),
            (("chair", "stool"), ("table", "desk")),
        ),
        ((("in the park",), ("in the garden", "in the yard")), (("on the beach", "on the shore"), ("near the lake",)),
         (("on the street", "on the road"),)),
        ((("in the morning", "at dawn"), ("at noon",)), (("in the evening", "at dusk"), ("at night",))),
    ),
    forms=("a {who} is {does} a {what} {where} {when}", "a {what} is being {done} by a {who} {where} {when}",
           "{when}, a {who} is {does} a {what} {where}"),
    same=0.66,
    near=0.17,
)  # fmt: skip
HEADLINES = Genre(
    roles=(
        ((("government", "cabinet"), ("parliament",), ("president",)), (("court", "judges"), ("police", "officers")),
         (("company", "firm"), ("bank",), ("union",))),
        (
            (("will approve/approved", "will accept/accepted"), ("will support/supported",)),
            (("will reject/rejected", "will refuse/refused"), ("will delay/delayed", "will postpone/postponed")),
            (("will announce/announced", "will reveal/revealed"), ("will discuss/discussed",)),
        ),
        (
            (("new law", "new bill"), ("tax reform",), ("budget",)),
            (("trade deal", "trade agreement"), ("peace talks",)),
            (("oil project", "oil scheme"), ("rail strike", "rail walkout"), ("bridge plan",)),
        ),
        ((("in france",), ("in germany",), ("in spain",)), (("in china",), ("in japan",)),
         (("in egypt",), ("in kenya",))),
        ((("on monday",), ("on tuesday",)), (("next week",), ("next month",)), (("this year",),)),
    ),
    forms=("{who} {does} {what} {where} {when}", "{what} to be {done} by {who} {where} {when}",
           "{when}, {who} {does} {what} {where}"),
    same=0.34,
    near=0.22,
)  # fmt: skip
GENRES = (CAPTIONS, HEADLINES)
LEXICON = [(genre.roles, genre.forms) for genre in GENRES]

# A scene: for each role the kind and the concept.
Scene = tuple[tuple[int, int], ...]


def make_sts(seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Example]]:
    """Pairs with scores from 0 to 5, in fifths."""
    return build("sts", seed, sizes, lambda dice: dice.pick(GENRES), _say)


def _say(dice: Dice, genre: Genre) -> Draw:
    scene: list[tuple[int, int]] = []
    other: list[tuple[int, int]] = []
    points = 0.0
    for role, weight in zip(genre.roles, WEIGHTS, strict=True):
        concept = _concept(dice, role)
        partner, credit = _partner(dice, role, concept, genre)
        scene.append(concept)
        other.append(partner)
        points += 5 * weight * credit
    a, b = _tell(dice, genre, tuple(scene)), _tell(dice, genre, tuple(other))
    while a == b:
        b = _tell(dice, genre, tuple(other))
    score = min(max(points + NOISE * dice.normal(), 0.0), 5.0)
    return Draw((a, b), round(score * 5) / 5)


def _concept(dice: Dice, role: Role) -> tuple[int, int]:
    kind = dice.pick(range(len(role)))
    return kind, dice.pick(range(len(role[kind])))


def _partner(dice: Dice, role: Role, concept: tuple[int, int], genre: Genre) -> tuple[tuple[int, int], float]:
    """The role in the other sentence, and what it counts."""
    kind, index = concept
    how = dice.weighted((genre.same, genre.near, 1 - genre.same - genre.near))
    if how == 0:
        return concept, 1.0
    if how == 1 and len(role[kind]) > 1:
        return (kind, dice.other(range(len(role[kind])), index)), 0.5
    other = dice.other(range(len(role)), kind)
    return (other, dice.pick(range(len(role[other])))), 0.0


def _tell(dice: Dice, genre: Genre, scene: Scene) -> str:
    names = [dice.pick(role[kind][index]) for role, (kind, index) in zip(genre.roles, scene, strict=True)]
    who, action, what, where, when = names
    does, done = action.split("/")
    return sentence(dice.pick(genre.forms).format(who=who, does=does, done=done, what=what, where=where, when=when))
