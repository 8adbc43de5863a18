"""Synthetic question pairs: duplicates by synonym, voice and word order; others differ in a slot or two.

As in Quora's own data, one question alone tells something: popular topics are asked again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchkit.data.demo import SIZES, Dice, Draw, build, sentence
from benchkit.task import Example

POPULAR_SHARE = 0.367
DUPLICATES = {True: 0.75, False: 0.15}
"""Share of duplicates among pairs on popular and on niche topics: 37 % together."""
NOISE = 0.04
"""Share of labels that are turned round."""

Synonyms = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Topic:
    """Actions (synonyms, each with its participle) and objects (synonyms) that go with each other."""

    actions: tuple[Synonyms, ...]
    objects: tuple[tuple[str, ...], ...]


POPULAR = (
    Topic(
        ((("learn", "learned"), ("study", "studied")), (("teach", "taught"), ("explain", "explained")),
         (("practise", "practised"), ("rehearse", "rehearsed")), (("forget", "forgotten"), ("unlearn", "unlearned"))),
        (("english",), ("french",), ("python",), ("mathematics", "maths"), ("grammar",)),
    ),
    Topic(
        ((("lose", "lost"), ("reduce", "reduced")), (("gain", "gained"), ("increase", "increased")),
         (("control", "controlled"), ("manage", "managed")), (("measure", "measured"), ("check", "checked"))),
        (("weight",), ("fat",), ("muscle",), ("stress", "anxiety"), ("strength",)),
    ),
    Topic(
        ((("earn", "earned"), ("make", "made")), (("save", "saved"), ("keep", "kept")),
         (("invest", "invested"), ("place", "placed")), (("spend", "spent"), ("use", "used"))),
        (("money", "cash"), ("bitcoin",), ("dollars",), ("a salary", "an income"), ("a pension",)),
    ),
    Topic(
        ((("recover", "recovered"), ("restore", "restored")), (("delete", "deleted"), ("remove", "removed")),
         (("secure", "secured"), ("protect", "protected")), (("create", "created"), ("open", "opened"))),
        (("a password",), ("an account", "a profile"), ("photos", "pictures"), ("messages",), ("a website",)),
    ),
)  # fmt: skip
NICHE = (
    Topic(
        ((("grow", "grown"), ("cultivate", "cultivated")), (("water", "watered"), ("irrigate", "irrigated")),
         (("cut", "cut"), ("trim", "trimmed")), (("plant", "planted"), ("sow", "sown"))),
        (("roses",), ("tomatoes",), ("orchids",), ("herbs",), ("vines",)),
    ),
    Topic(
        ((("repair", "repaired"), ("fix", "fixed")), (("clean", "cleaned"), ("wash", "washed")),
         (("paint", "painted"), ("varnish", "varnished")), (("sell", "sold"), ("trade", "traded"))),
        (("a violin",), ("a clock",), ("a bicycle", "a bike"), ("a boat",), ("a piano",)),
    ),
    Topic(
        ((("bake", "baked"), ("roast", "roasted")), (("store", "stored"), ("preserve", "preserved")),
         (("freeze", "frozen"), ("chill", "chilled")), (("season", "seasoned"), ("spice", "spiced"))),
        (("bread",), ("fish",), ("mushrooms",), ("potatoes",), ("cheese",)),
    ),
    Topic(
        ((("train", "trained"), ("tame", "tamed")), (("feed", "fed"), ("nourish", "nourished")),
         (("breed", "bred"), ("raise", "raised")), (("transport", "transported"), ("move", "moved"))),
        (("goats",), ("parrots",), ("bees",), ("ponies",), ("rabbits", "bunnies")),
    ),
)  # fmt: skip
TOPICS = {True: POPULAR, False: NICHE}
DETAILS = (
    ("at home", "in the house"), ("in india",), ("in canada",), ("in winter", "during the winter"), ("in one month",),
    ("quickly", "fast"), ("cheaply", "at low cost"), ("safely", "without risk"), ("as a student",),
    ("without help", "alone"),
)  # fmt: skip
# What is asked; each way of asking says the same. `{made}` is the participle: the passive voice.
INTENTS = (
    ("how do i {make} {thing} {detail}", "what is the best way to {make} {thing} {detail}",
     "how can {thing} be {made} {detail}", "{detail}, how do i {make} {thing}"),
    ("why should i {make} {thing} {detail}", "what are the reasons to {make} {thing} {detail}",
     "why should {thing} be {made} {detail}", "{detail}, why should i {make} {thing}"),
    ("how much does it cost to {make} {thing} {detail}", "how expensive is it to {make} {thing} {detail}",
     "{detail}, how much does it cost to {make} {thing}"),
    ("how long does it take to {make} {thing} {detail}", "how many days do i need to {make} {thing} {detail}",
     "{detail}, how long does it take to {make} {thing}"),
)  # fmt: skip
LEXICON = (
    [(topic.actions, topic.objects) for topic in POPULAR + NICHE],
    DETAILS,
    INTENTS,
)


@dataclass(frozen=True)
class Question:
    """What is asked, whatever the words; all but the topic are slots."""

    topic: Topic
    intent: tuple[str, ...]
    action: Synonyms
    object: tuple[str, ...]
    detail: tuple[str, ...]


def make_quora(seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Example]]:
    """Pairs with labels 0 (different) and 1 (duplicate)."""
    return build("quora", seed, sizes, _plan, _say)


def _plan(dice: Dice) -> tuple[bool, bool]:
    popular = dice.chance(POPULAR_SHARE)
    return popular, dice.chance(DUPLICATES[popular])


def _say(dice: Dice, plan: tuple[bool, bool]) -> Draw:
    popular, duplicate = plan
    first = _question(dice, dice.pick(TOPICS[popular]))
    second = first if duplicate else _change(dice, first)
    a, b = _ask(dice, first), _ask(dice, second)
    while a == b:
        b = _ask(dice, second)
    return Draw((a, b), float(duplicate != dice.chance(NOISE)))


def _question(dice: Dice, topic: Topic) -> Question:
    return Question(topic, dice.pick(INTENTS), dice.pick(topic.actions), dice.pick(topic.objects), dice.pick(DETAILS))


def _change(dice: Dice, question: Question) -> Question:
    """One slot in three pairs, else two or three: near misses, and questions that merely share a topic."""
    slots: dict[str, Any] = {
        "intent": dice.other(INTENTS, question.intent),
        "action": dice.other(question.topic.actions, question.action),
        "object": dice.other(question.topic.objects, question.object),
        "detail": dice.other(DETAILS, question.detail),
    }
    names = dice.sample(tuple(slots), 1 + dice.weighted((1, 1, 1)))
    return replace(question, **{name: slots[name] for name in names})


def _ask(dice: Dice, question: Question) -> str:
    make, made = dice.pick(question.action)
    text = dice.pick(question.intent).format(
        make=make, made=made, thing=dice.pick(question.object), detail=dice.pick(question.detail)
    )
    return sentence(text, "?")
