"""Feature tables that are not stored: of an encoder that is being trained, or of a probe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from benchkit.features import Pooled, Tokens
from benchkit.store.table import FeatureTable, Report
from benchkit.store.tokens import ResidentTokens

if TYPE_CHECKING:
    from benchkit.encoder import Encoder, Tokenized
    from benchkit.store.features import FeatureSettings


def encode_table(encoder: Encoder, tokenized: Tokenized, settings: FeatureSettings) -> FeatureTable:
    """The features of `tokenized` from the encoder as it is now, in memory, on the CPU."""
    began, count = time.perf_counter(), len(tokenized)
    reads = Tokens if settings.reads == "tokens" else Pooled
    chunks = list(
        encoder.encode_chunks(
            tokenized,
            reads=reads,
            pooling=settings.pooling,
            layers=settings.layers,
            precision=settings.precision,
        )
    )
    pooled = torch.empty((count, encoder.hidden * len(settings.layers)))
    for chunk in chunks:
        pooled[chunk.rows] = chunk.pooled.cpu()
    tokens = None
    if reads is Tokens:
        rows, lengths = (torch.cat([getattr(chunk, name).cpu() for chunk in chunks]) for name in ("rows", "lengths"))
        start, length = torch.empty(count, dtype=torch.int64), torch.empty(count, dtype=torch.int64)
        start[rows], length[rows] = lengths.cumsum(0) - lengths, lengths
        pieces = torch.cat([chunk.tokens for chunk in chunks if chunk.tokens is not None])
        tokens = ResidentTokens(pieces, start.to(pieces.device), length)
    return FeatureTable(pooled, tokens, Report(0, count, time.perf_counter() - began), settings.apart)
