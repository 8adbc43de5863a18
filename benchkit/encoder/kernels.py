"""Two kernels for a GPU, in Triton: attention within short packed sentences, and addition with layer norm.

Attention. Kernels made for long sequences compute tiles of 128 by 128 scores, of which a sentence of twenty word pieces
fills a fortieth. Here one program holds one sentence's scores for one head whole, in a tile just as large as needed,
reads packed queries, keys and values and writes packed results: no padding, no copies. The backward pass computes the
scores again from the same inputs, and dropout's decisions from its seed.

Addition with norm. What it does is little beside the bytes that it moves, so it moves them once.

Only to be imported where Triton is (see `benchkit.encoder.attention`).
"""

# mypy: ignore-errors
# What Triton compiles is written as Python, but has none of its types.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "total"])
def attend_forward(
    qkv, out, starts, lengths, seed, rows, total, scale, dropout, heads: tl.constexpr, width: tl.constexpr,
    block: tl.constexpr, columns: tl.constexpr, drops: tl.constexpr,
):  # fmt: skip
    """One sentence and head: (total, 3, heads, width) to (total, heads, width)."""
    row, head = tl.program_id(0), tl.program_id(1)
    if row == rows:  # word pieces of no row
        _clear(out, starts, lengths, rows, total, head, heads * width, width, block, columns)
        return
    start, length = tl.load(starts + row), tl.load(lengths + row)
    i, d = tl.arange(0, block), tl.arange(0, columns)
    q, k, v, _, real = _read(qkv, start, length, head, i, d, heads, width)
    weights = _weights(q, k, i, length, scale)
    if drops:
        weights = tl.where(_kept(seed, row, head, heads, i, block, dropout), weights / (1.0 - dropout), 0.0)
    mixed = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    into = (start + i).to(tl.int64)[:, None] * (heads * width) + head * width + d[None, :]
    tl.store(out + into, mixed.to(out.dtype.element_ty), mask=real)


@triton.jit(do_not_specialize=["rows", "total"])
def attend_backward(
    qkv, gradient, into, starts, lengths, seed, rows, total, scale, dropout, heads: tl.constexpr, width: tl.constexpr,
    block: tl.constexpr, columns: tl.constexpr, drops: tl.constexpr,
):  # fmt: skip
    """From the gradient of the output to that of queries, keys and values, laid out as these are."""
    row, head = tl.program_id(0), tl.program_id(1)
    if row == rows:
        for part in tl.static_range(3):
            _clear(
                into + part * heads * width, starts, lengths, rows, total, head, 3 * heads * width, width, block,
                columns,
            )  # fmt: skip
        return
    start, length = tl.load(starts + row), tl.load(lengths + row)
    i, d = tl.arange(0, block), tl.arange(0, columns)
    q, k, v, place, real = _read(qkv, start, length, head, i, d, heads, width)
    there = (start + i).to(tl.int64)[:, None] * (heads * width) + head * width + d[None, :]
    g = tl.load(gradient + there, mask=real, other=0.0).to(v.dtype)
    weights = _weights(q, k, i, length, scale)
    of_weights = tl.dot(g, tl.trans(v), input_precision="ieee")
    used = weights
    if drops:
        kept = _kept(seed, row, head, heads, i, block, dropout)
        used = tl.where(kept, weights / (1.0 - dropout), 0.0)
        of_weights = tl.where(kept, of_weights / (1.0 - dropout), 0.0)
    of_values = tl.dot(tl.trans(used.to(g.dtype)), g, input_precision="ieee")
    of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale
    of_scores = of_scores.to(q.dtype)
    of_queries = tl.dot(of_scores, k, input_precision="ieee")
    of_keys = tl.dot(tl.trans(of_scores), q, input_precision="ieee")
    kind = into.dtype.element_ty
    tl.store(into + place, of_queries.to(kind), mask=real)
    tl.store(into + place + heads * width, of_keys.to(kind), mask=real)
    tl.store(into + place + 2 * heads * width, of_values.to(kind), mask=real)


@triton.jit
def _read(qkv, start, length, head, i, d, heads: tl.constexpr, width: tl.constexpr):
    """Queries, keys and values of a sentence for a head, the places of its queries, and which of them are real."""
    real = (i < length)[:, None] & (d < width)[None, :]
    place = (start + i).to(tl.int64)[:, None] * (3 * heads * width) + head * width + d[None, :]
    q = tl.load(qkv + place, mask=real, other=0.0)
    k = tl.load(qkv + place + heads * width, mask=real, other=0.0)
    v = tl.load(qkv + place + 2 * heads * width, mask=real, other=0.0)
    return q, k, v, place, real


@triton.jit
def _weights(q, k, i, length, scale):
    """Softmax over the real keys; rows beyond the sentence are there and do not matter."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    scores = tl.where((i < length)[None, :], scores, float("-inf"))
    powers = tl.exp(scores - tl.max(scores, 1)[:, None])
    return powers / tl.sum(powers, 1)[:, None]


@triton.jit
def _kept(seed, row, head, heads: tl.constexpr, i, block: tl.constexpr, dropout):
    """Which weights dropout keeps: a function of the seed, the row, the head and the place."""
    place = (row * heads + head) * block * block + i[:, None] * block + i[None, :]
    return tl.rand(tl.load(seed), place) >= dropout


@triton.jit
def _clear(
    into, starts, lengths, rows, total, head, pitch, width: tl.constexpr, block: tl.constexpr, columns: tl.constexpr
):
    """Zeros for what follows the last sentence: whatever else was there could be no number, and spread."""
    end = tl.load(starts + rows - 1) + tl.load(lengths + rows - 1)
    i, d = tl.arange(0, block), tl.arange(0, columns)
    for start in range(end, total, block):
        here = ((start + i) < total)[:, None] & (d < width)[None, :]
        place = (start + i).to(tl.int64)[:, None] * pitch + head * width + d[None, :]
        tl.store(into + place, tl.zeros((block, columns), into.dtype.element_ty), mask=here)


@triton.jit
def add_norm(x, change, weight, bias, out, epsilon, width: tl.constexpr, columns: tl.constexpr):
    """One word piece: layer norm of x + change, (total, width) each, in float32 between."""
    row, d = tl.program_id(0).to(tl.int64), tl.arange(0, columns)
    real = d < width
    first = tl.load(x + row * width + d, mask=real, other=0.0).to(tl.float32)
    both = first + tl.load(change + row * width + d, mask=real, other=0.0).to(tl.float32)
    mean = tl.sum(both, 0) / width
    centred = tl.where(real, both - mean, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + epsilon)
    scaled = normed * tl.load(weight + d, mask=real, other=0.0).to(tl.float32)
    shifted = scaled + tl.load(bias + d, mask=real, other=0.0).to(tl.float32)
    tl.store(out + row * width + d, shifted.to(out.dtype.element_ty), mask=real)
