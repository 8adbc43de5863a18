"""A tiny encoder, sentences for it, and a store that remembers what it logged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchkit.core.features import Pooled, Tokens
from benchkit.encoder import BertConfig, Encoder, random_encoder
from benchkit.store.features import FeatureSettings, FeatureStore

WORDS = ["a", "bad", "big", "cat", "dog", "film", "good", "of", "old", "saw", "the", "tree", "was", "young"]


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]


CONFIG = BertConfig(
    vocab_size=len(VOCAB),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)


POOLED = FeatureSettings()


TOKENS = FeatureSettings(reads="tokens", pooling="mean")


def encoder(seed: int = 0, config: BertConfig = CONFIG) -> Encoder:
    return random_encoder("tiny", VOCAB, config, seed)


def sentences(count: int) -> list[tuple[str, ...]]:
    """Distinct sentences of 3 to 12 words, the same each time."""
    generator = torch.Generator().manual_seed(1)
    result: list[tuple[str, ...]] = []
    for i in range(count):
        draw = torch.randint(len(WORDS), (3 + i % 10,), generator=generator).tolist()
        result.append((" ".join([WORDS[i % len(WORDS)], *(WORDS[word] for word in draw)]),))
    return result


class Store(FeatureStore):
    """One that remembers what it logged; segments of eight inputs."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        super().__init__(root, self.lines.append, chunk=8)

    def segments(self, settings: FeatureSettings = POOLED) -> list[Path]:
        return sorted((self.root / "features" / self.key(encoder(), settings)).glob("*.safetensors"))


def pooled_one_by_one(inputs: list[tuple[str, ...]], settings: FeatureSettings) -> Tensor:
    return torch.cat([pooled for each in inputs for pooled, _ in direct([each], settings)])


def direct(inputs: list[tuple[str, ...]], settings: FeatureSettings) -> Iterator[tuple[Tensor, Tensor | None]]:
    own = encoder()
    reads = Tokens if settings.reads == "tokens" else Pooled
    for part in own.encode_chunks(
        [own.tokenize(inputs, settings.max_length)],
        reads=reads,
        pooling=settings.pooling,
        layers=settings.layers,
        precision=settings.precision,
    ):
        yield part.pooled, part.tokens
