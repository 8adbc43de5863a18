"""Texts as sequences of word pieces, and the batches of an epoch.

A sequence is one text, or a part of one that is too long. A batch holds whole sequences end to end, so it has no
padding, and attention stays within each (see `encoder.layout`): no text ever sees another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from benchkit.encoder import Tokenized
from benchkit.rng import generator

_TOGETHER = 8192  # texts a call: what the library gives back takes a hundred times the text's memory


def sequences(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> Tokenized:
    """Every text in full, in order, `[CLS]` before and `[SEP]` after each sequence."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocab = tokenizer.get_vocab()
    first, last = vocab["[CLS]"], vocab["[SEP]"]
    room, parts, lengths = max_length - 2, list[np.ndarray](), list[int]()
    for start in range(0, len(texts), _TOGETHER):
        flat: list[int] = []
        for encoding in tokenizer.encode_batch(list(texts[start : start + _TOGETHER]), add_special_tokens=False):
            for begin in range(0, len(encoding), room):
                part = encoding.ids[begin : begin + room]
                flat += [first, *part, last]
                lengths.append(len(part) + 2)
        parts.append(np.array(flat, np.int32))
    ids = torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=torch.int32)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Tokenized(ids, torch.zeros(len(ids), dtype=torch.uint8), offsets, 0)


def batches(lengths: Tensor, size: int, seed: int, epoch: int) -> list[Tensor]:
    """Rows (batch,) int64 of each batch of an epoch, every row once: a function of seed and epoch."""
    return cut(torch.randperm(len(lengths), generator=generator(seed, "order", epoch)), lengths, size)


def cut(order: Tensor, lengths: Tensor, size: int) -> list[Tensor]:
    """Neighbours in `order`, at most `size` word pieces together (but at least one row), by length within."""
    ends = lengths[order].cumsum(0)
    start, done, result = 0, 0, []
    while start < len(order):
        stop = max(start + 1, int(torch.searchsorted(ends, done + size, right=True)))
        rows = order[start:stop]
        result.append(rows[lengths[rows].argsort(stable=True)])
        start, done = stop, int(ends[stop - 1])
    return result
