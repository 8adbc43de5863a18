"""Packed, padded, streamed, by GPU kernels: the same numbers as one sentence at a time, gradients too."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from benchkit.core.features import Tokens
from benchkit.encoder import BertConfig, Encoder, random_encoder, resolve_precision
from benchkit.encoder.attention import Layout, usable
from benchkit.encoder.bert import attend
from benchkit.encoder.encoder import pipelined, stream
from benchkit.encoder.packing import bucket_size, compute, gather
from benchkit.encoder.tokenizer import Tokenized

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
CONFIG = BertConfig(len(VOCAB), 32, 2, 4, 64, 512)
RAGGED = {
    "one piece": [1],
    "one length": [7] * 5,
    "ragged": [1, 2, 2, 3, 9, 9, 17, 40],
    "longest": [1, 64, 511, 512],
}
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def encoder() -> Encoder:
    return random_encoder("tiny", VOCAB, CONFIG, seed=0)


def of_lengths(lengths: list[int], seed: int = 0) -> Tokenized:
    """Random pieces; the second half of each input is in segment 1, as in a joint pair."""
    draw, ends = torch.Generator().manual_seed(seed), torch.tensor([0, *lengths]).cumsum(0)
    ids = torch.randint(len(VOCAB), (int(ends[-1]),), generator=draw, dtype=torch.int32)
    segments = torch.cat([(torch.arange(each) >= (each + 1) // 2).byte() for each in lengths])
    return Tokenized(ids, segments, ends, 0)


def one_at_a_time(encoder: Encoder, tokenized: Tokenized, pooling: str) -> tuple[Tensor, Tensor]:
    """The plain path: each input by itself through the model, in fp32."""
    pooled, pieces = [], []
    for row in range(len(tokenized)):
        batch = gather(tokenized, torch.tensor([row]), encoder.device, False)
        vector, each = compute(encoder.model, batch, pooling, (2,), True)
        assert each is not None
        pooled.append(vector)
        pieces.append(each)
    return torch.cat(pooled), torch.cat(pieces)


def gradients(encoder: Encoder, outputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    encoder.model.zero_grad()
    weights = torch.linspace(-1, 1, outputs[1].numel()).view(outputs[1].shape).to(outputs[1].device)
    torch.autograd.backward(outputs[0].square().sum() + (outputs[1] * weights).sum())
    return {name: p.grad.cpu().clone() for name, p in encoder.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padded", [False, True], ids=["groups", "padded"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED.keys())
def test_packed_is_plain(encoder: Encoder, lengths: list[int], pooling: str, padded: bool) -> None:
    tokenized, rows = of_lengths(lengths), torch.arange(len(lengths))
    plain = one_at_a_time(encoder, tokenized, pooling)
    pooled, pieces = compute(encoder.model, gather(tokenized, rows, encoder.device, padded), pooling, (2,), True)
    assert pieces is not None
    torch.testing.assert_close((pooled, pieces), plain, atol=1e-5, rtol=1e-5)
    expected = gradients(encoder, plain)
    torch.testing.assert_close(gradients(encoder, (pooled, pieces)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED.keys())
def test_bf16_of_both_kinds_is_near(encoder: Encoder, lengths: list[int]) -> None:
    """bf16 weights for stored features; autocast, whose masters stay fp32, for training."""
    tokenized = of_lengths(lengths)
    plain, _ = one_at_a_time(encoder, tokenized, "mean")
    stored = torch.cat([chunk.pooled for chunk in encoder.encode_chunks([tokenized], precision="bf16", chunk=10**6)])
    order = tokenized.lengths.argsort(descending=True, stable=True)
    with torch.autocast("cpu", torch.bfloat16):
        live = encoder.features(tokenized, torch.arange(len(lengths))[:, None]).pooled[:, 0]
    for rough in (stored[order.argsort()], live):
        assert rough.dtype == torch.float32
        assert float(torch.cosine_similarity(rough, plain).min().detach()) > 0.999
    torch.autograd.backward(live.sum())
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in encoder.model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("seed", range(4))
def test_live_features_of_random_pairs_are_plain(encoder: Encoder, seed: int) -> None:
    draw = random.Random(seed)
    lengths = [draw.choice([1, 2, 3, draw.randint(1, 60)]) for _ in range(12)]
    tokenized = of_lengths(lengths, seed)
    rows = torch.tensor([[draw.randrange(12), draw.randrange(12)] for _ in range(5)])
    features = encoder.features(tokenized, rows, Tokens)
    assert isinstance(features, Tokens)
    pooled, pieces = one_at_a_time(encoder, tokenized, "mean")
    torch.testing.assert_close(features.pooled, pooled[rows], atol=1e-5, rtol=1e-5)
    for (row, segment), found in zip(
        ((r, s) for r in range(5) for s in range(2)), rows.flatten().tolist(), strict=True
    ):
        here = slice(*tokenized.offsets[found : found + 2].tolist())
        real = features.tokens[row, segment][features.mask[row, segment]]
        torch.testing.assert_close(real, pieces[here], atol=1e-5, rtol=1e-5)


def test_a_pipeline_keeps_the_order_and_starts_before_it_waits() -> None:
    seen: list[str] = []

    def start(number: int) -> Callable[[], int]:
        def wait() -> int:
            seen.append(f"wait {number}")
            return number

        seen.append(f"start {number}")
        return wait

    assert list(pipelined(map(start, range(3)))) == [0, 1, 2]
    assert seen == ["start 0", "start 1", "wait 0", "start 2", "wait 1", "wait 2"]
    assert list(pipelined(iter([]))) == []


def test_compiled_layers_have_an_operator_for_attention() -> None:
    """`torch.compile` looks it up by name, and asks for shapes alone."""
    qkv, lengths = torch.empty(9, 3, 2, 8, device="meta"), torch.empty(2, dtype=torch.int32, device="meta")
    found = torch.ops.benchkit.short_attention(qkv, lengths, lengths, 5, 0.0, None)
    back = torch.ops.benchkit.short_attention_backward(qkv, found, lengths, lengths, 5, 0.0, None)
    assert (found.shape, back.shape) == ((9, 2, 8), qkv.shape)


def test_a_cpu_has_no_packed_kernel() -> None:
    assert not usable(torch.randn(4, 3, 2, 8, dtype=torch.bfloat16), 0.0)


@on_cuda
@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED.keys())
def test_cuda_is_the_cpu(encoder: Encoder, lengths: list[int]) -> None:
    tokenized, rows = of_lengths(lengths), torch.arange(len(lengths))
    plain = one_at_a_time(encoder, tokenized, "mean")
    expected, there = gradients(encoder, plain), copy.deepcopy(encoder).to("cuda")
    pooled, pieces = compute(there.model, gather(tokenized, rows, there.device, True), "mean", (2,), True)
    assert pieces is not None
    torch.testing.assert_close((pooled.cpu(), pieces.cpu()), plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradients(there, (pooled, pieces)), expected, atol=1e-3, rtol=1e-3)


@on_cuda
@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED.keys())
def test_the_packed_kernel_is_near_padding(lengths: list[int]) -> None:
    layout = Layout(torch.tensor(lengths), "cuda", padded=True)
    qkv = torch.randn(layout.total, 3 * 64, device="cuda")
    if not usable(qkv.bfloat16().view(layout.total, 3, 2, 32), 0.0):
        pytest.skip("this GPU or torch has no kernel for packed attention")
    torch.testing.assert_close(
        attend(qkv.bfloat16(), layout, 2, 0.0).float(), attend(qkv, layout, 2, 0.0), atol=0.03, rtol=0.03
    )


@on_cuda
def test_streams_of_many_chunks_are_the_cpus(encoder: Encoder) -> None:
    tokenized = of_lengths([1 + i * 7 % 50 for i in range(400)])
    found = []
    for model in (encoder.model, copy.deepcopy(encoder.model).cuda()):
        chunks = list(stream(model, [tokenized], "mean", (2,), True, 60))
        found.append([(chunk.rows, chunk.pooled, chunk.tokens) for chunk in chunks])
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert resolve_precision("auto", "cuda") in ("bf16", "fp32")


def test_bucket_sizes_are_few() -> None:
    draw = np.random.default_rng(0)
    sizes = {bucket_size(draw.lognormal(3, 0.5, 8).astype(int).clip(3, 128), 128) for _ in range(2000)}
    assert len(sizes) < 40
    assert max(size.total for size in sizes) >= 384
