"""The demo encoder: a small miniBERT with seeded random weights, over the words of the demo data.

Frozen, its features are a random projection of the words; phase 2 trains it like any other. Letters are in its
vocabulary too, so that it can spell what it does not know.
"""

from __future__ import annotations

from string import ascii_lowercase, digits
from typing import TYPE_CHECKING

from benchkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from benchkit.encoder import Encoder, EncoderSpec

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def demo_vocabulary() -> list[str]:
    """Special pieces first, then characters and their continuations, then words; distinct."""
    from benchkit.data.demo import demo_words

    characters = [*ascii_lowercase, *digits]
    pieces = (*SPECIAL, *characters, *(f"##{each}" for each in characters), *"'\"!:;()-&", *demo_words())
    return list(dict.fromkeys(pieces))


def _load() -> Encoder:
    from benchkit.encoder import BertConfig, random_encoder

    vocab = demo_vocabulary()
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=128,
        # So small and so briefly trained, it gains nothing from dropout but slower steps.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    encoder = random_encoder(name="demo", vocab=vocab, config=config, seed=0)
    # BERT's initial embeddings give word, position and segment an equal say, which suits training but not frozen
    # features: with louder words, the features of two sentences differ by their words.
    encoder.model.word.weight.data.mul_(5)
    return encoder


@hookimpl
def benchkit_encoders() -> list[EncoderSpec]:
    from benchkit.encoder import EncoderSpec

    return [EncoderSpec("demo", "2 layers of 128, random weights, the demo data's own words; no download.", _load)]
