"""How much a BERT computes, in multiply-accumulates: a formula, held to the counter of `benchkit.flops` by a test."""

from __future__ import annotations

from collections.abc import Sequence

from benchkit.encoder.config import BertConfig


def encoder_macs(
    config: BertConfig,
    lengths: Sequence[int],
    *,
    top: int | None = None,
    first_only: bool = False,
    pooler: bool = False,
) -> int:
    """One forward over sentences of these lengths, in word pieces; nothing for padding.

    Args:
        top: the highest layer that is computed; default: all of them.
        first_only: the highest layer computes `[CLS]` alone, as it does where nothing else of it is read.
        pooler: `[CLS]` goes through the pooler.
    """
    hidden = config.hidden_size
    layers = config.num_hidden_layers if top is None else top
    rows, tokens, pairs = len(lengths), sum(lengths), sum(length * length for length in lengths)
    dense = 4 * hidden * hidden + 2 * hidden * config.intermediate_size  # query, key, value, output, up, down
    whole = layers - 1 if first_only and layers else layers
    total = whole * (tokens * dense + 2 * pairs * hidden)
    if whole < layers:  # all keys and values, but one query, output and feed-forward a sentence
        keys = 2 * hidden * hidden
        total += tokens * keys + rows * (dense - keys) + 2 * tokens * hidden
    return total + (rows * hidden * hidden if pooler else 0)
