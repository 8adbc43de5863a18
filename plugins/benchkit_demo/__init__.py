"""Encoders that need no download.

`embedded` was pre-trained by the project on the training splits of the three tasks and nothing else; `docs/pretrain.md`
has the command, and `results/embedded/` what its features are worth. `demo` is a smaller one with seeded random
weights, over the words of the demo data: frozen, its features are a random projection of the words; phase 2 trains it
like any other. Letters are in its vocabulary too, so that it can spell what it does not know.
"""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING

from benchkit import hookimpl

if TYPE_CHECKING:
    from benchkit.encoder import Encoder, EncoderSpec

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def demo_vocabulary() -> list[str]:
    """Special pieces first, then characters and their continuations, then words; distinct."""
    from benchkit_demo.sentences import demo_words

    characters = [*ascii_lowercase, *digits]
    pieces = (*SPECIAL, *characters, *(f"##{each}" for each in characters), *"'\"!:;()-&", *demo_words())
    return list(dict.fromkeys(pieces))


def _load_demo() -> Encoder:
    from benchkit.encoder import BertConfig, random_encoder

    vocab = demo_vocabulary()
    # So small and so briefly trained, it gains nothing from dropout but slower steps.
    config = BertConfig(vocab_size=len(vocab), hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=512, max_position_embeddings=128, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0)  # fmt: skip
    encoder = random_encoder(name="demo", vocab=vocab, config=config, seed=0)
    # BERT's initial embeddings give word, position and segment an equal say, which suits training but not frozen
    # features: with louder words, the features of two sentences differ by their words.
    encoder.model.word.weight.data.mul_(5)
    return encoder


def _load_embedded() -> Encoder:
    from benchkit.encoder import load_encoder

    encoder = load_encoder(Path(__file__).parent / "embedded")
    encoder.notes = ()  # that it was trained without a pooler is for docs/pretrain.md, not for every run of the demo
    return encoder


@hookimpl
def benchkit_encoders() -> list[EncoderSpec]:
    from benchkit.encoder import EncoderSpec

    pretrained = "4 layers of 128, pre-trained on the training texts of the three tasks; no download."
    random = "2 layers of 128, random weights, the demo data's own words; no download."
    return [EncoderSpec("embedded", pretrained, _load_embedded), EncoderSpec("demo", random, _load_demo)]
