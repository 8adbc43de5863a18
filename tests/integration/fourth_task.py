"""A plugin as a stranger would write it: two data sets and an encoder that benchkit has never heard of.

`reviews` is sentiment in two classes, of texts as long as the encoder reads: 512 word pieces. Columns, metric and rows
are its own. `comfort` is a score of one sentence, from 1 to 7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from benchkit import Example, Metric, TaskSpec, hookimpl
from benchkit.nn import losses

if TYPE_CHECKING:
    import numpy as np

    from benchkit import Encoder, EncoderSpec

GOOD, BAD = ("superb", "charming", "solid", "delightful"), ("awful", "dull", "clumsy", "bland")
FILLER = ("the", "room", "was", "on", "third", "floor", "and", "we", "stayed", "two", "nights")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = {"train": 72, "dev": 24, "test": 24}  # train: two batches of 32 and a shorter one


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews' correlation of two classes; 0 where either side is constant."""
    import numpy as np

    both = np.stack([labels, predictions]).astype(float)
    return 0.0 if (np.ptp(both, axis=1) == 0).any() else float(np.corrcoef(both)[0, 1])


matthews = Metric("matthews", _matthews)


def _negative_error(labels: np.ndarray, predictions: np.ndarray) -> float:
    import numpy as np

    return -float(np.abs(labels - predictions).mean())


def _text(dice: Random, words: Sequence[str], length: int) -> str:
    return " ".join(dice.choice(words) if place % 3 else dice.choice(FILLER) for place in range(length))


def _reviews() -> Mapping[str, Sequence[Example]]:
    """Short, long, and far too long ones."""
    dice = Random(0)

    def row(name: str, number: int) -> Example:
        label = number % 2
        return Example(
            f"{name}-{number}", (_text(dice, (BAD, GOOD)[label], dice.choice((8, 12, 40, 700))),), float(label)
        )

    return {name: [row(name, number) for number in range(size)] for name, size in SIZES.items()}


def _comfort() -> Mapping[str, Sequence[Example]]:
    dice = Random(1)

    def row(number: int) -> Example:
        score = 1 + 6 * dice.random()
        good = round(score)
        words = [*dice.choices(GOOD, k=good), *dice.choices(BAD, k=8 - good)]
        return Example(str(number), (" ".join(words),), score)

    return {name: [row(number) for number in range(size)] for name, size in SIZES.items()}


REVIEWS = TaskSpec(
    name="reviews",
    summary="Whether a guest was content, of long reviews.",
    texts=("review",),
    label="verdict",
    classes=("unhappy", "happy"),
    metric=matthews,
    losses={"cross_entropy": losses.cross_entropy},
    files=("reviews/{split}.csv",),
    aliases={"review": ("review_body",), "verdict": ("recommended",)},
    data=_reviews,
)

COMFORT = TaskSpec(
    name="comfort",
    summary="How comfortable a guest was, 1 to 7.",
    texts=("remark",),
    label="points",
    low=1.0,
    high=7.0,
    metric=Metric("−error", _negative_error),
    losses={"mse": losses.mse},
    data=_comfort,
)


@hookimpl
def benchkit_tasks() -> list[TaskSpec]:
    return [REVIEWS, COMFORT]


def _roomy() -> Encoder:
    from benchkit.encoder import BertConfig, random_encoder

    vocab = [*SPECIAL, *GOOD, *BAD, *FILLER]
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=512,
    )  # fmt: skip
    return random_encoder("roomy", vocab, config, seed=1)


@hookimpl
def benchkit_encoders() -> list[EncoderSpec]:
    from benchkit import EncoderSpec

    return [EncoderSpec("roomy", "Small, random, 512 positions.", _roomy)]
