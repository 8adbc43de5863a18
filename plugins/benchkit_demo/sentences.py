"""Synthetic sentences for the three tasks: sentiment, paraphrase, similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchkit.core.task import Example
from benchkit_demo.grammar import SIZES, Dice, Draw, build, sentence

SST_NOISE = 0.08
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
SST_LEXICON = (
    tuple(ADJECTIVES.values()), tuple(VERBS.values()), DEGREES, NOT, WORKS, PARTS, PEOPLE, COPULAS, ASIDES, CLAUSES,
    FEELING, UNFELT, JOINS,
)  # fmt: skip


def make_sst(seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Example]]:
    """Sentences with labels 0 to 4."""
    return build("sst", seed, sizes, lambda dice: dice.weighted(SHARES), _say_sst)


def _say_sst(dice: Dice, wanted: int) -> Draw:
    while True:
        text, strength = _review(dice)
        if _class(strength) == wanted:
            break
    label = wanted
    if dice.chance(SST_NOISE):
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


POPULAR_SHARE = 0.367
DUPLICATES = {True: 0.75, False: 0.15}
"""Share of duplicates among pairs on popular and on niche topics: 37 % together."""
QUORA_NOISE = 0.04
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
QUORA_LEXICON = (
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
    return build("quora", seed, sizes, _plan, _say_quora)


def _plan(dice: Dice) -> tuple[bool, bool]:
    popular = dice.chance(POPULAR_SHARE)
    return popular, dice.chance(DUPLICATES[popular])


def _say_quora(dice: Dice, plan: tuple[bool, bool]) -> Draw:
    popular, duplicate = plan
    first = _question(dice, dice.pick(TOPICS[popular]))
    second = first if duplicate else _change(dice, first)
    a, b = _ask(dice, first), _ask(dice, second)
    while a == b:
        b = _ask(dice, second)
    return Draw((a, b), float(duplicate != dice.chance(QUORA_NOISE)))


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


WEIGHTS = (0.25, 0.25, 0.25, 0.15, 0.1)
"""Of agent, action, patient, place and time, of 5 points."""
STS_NOISE = 0.35
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
STS_LEXICON = [(genre.roles, genre.forms) for genre in GENRES]

# A scene: for each role the kind and the concept.
Scene = tuple[tuple[int, int], ...]


def make_sts(seed: int, sizes: Mapping[str, int] = SIZES) -> dict[str, list[Example]]:
    """Pairs with scores from 0 to 5, in fifths."""
    return build("sts", seed, sizes, lambda dice: dice.pick(GENRES), _say_sts)


def _say_sts(dice: Dice, genre: Genre) -> Draw:
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
    score = min(max(points + STS_NOISE * dice.normal(), 0.0), 5.0)
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
