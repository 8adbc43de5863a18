"""The Triton kernels give what torch gives: on a GPU, else by Triton's interpreter, where Triton is installed."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="needs triton")

from benchkit.encoder.attention import add_norm, attend_rows, available, short

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTHS = {"one": [1], "ragged": [5, 1, 16, 17, 3], "pair": [31, 30], "longest": [128, 2]}


def case(lengths: list[int], width: int, kind: torch.dtype, spare: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of so many word pieces and `spare` more; where sentences start, and how long."""
    total, heads = sum(lengths) + spare, 2
    draw = torch.Generator().manual_seed(0)
    qkv = torch.randn(total, 3, heads, width, generator=draw).to(DEVICE, kind).requires_grad_()
    long = torch.tensor(lengths, dtype=torch.int32)
    return qkv, (long.cumsum(0) - long).int().to(DEVICE), long.to(DEVICE)


def plain(qkv: Tensor, lengths: list[int]) -> Tensor:
    """A sentence at a time, in float32."""
    parts = []
    for each in qkv[: sum(lengths)].float().split(lengths):  # type: ignore[no-untyped-call]
        q, k, v = each.permute(1, 2, 0, 3)
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize("width", [16, 24, 64])
@pytest.mark.parametrize("spare", [0, 37])
def test_attention_and_its_gradients(lengths: list[int], width: int, spare: int) -> None:
    qkv, starts, long = case(lengths, width, torch.float32, spare)
    weights = torch.linspace(-1, 1, sum(lengths) * 2 * width, device=DEVICE).view(-1, 2, width)
    expected = plain(qkv, lengths)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), qkv)
    found = attend_rows(qkv, starts, long, max(lengths), 0.0)
    torch.testing.assert_close(found[: sum(lengths)], expected, atol=1e-5, rtol=1e-4)
    assert not found[sum(lengths) :].any()
    found.retain_grad()
    (gradient,) = torch.autograd.grad((found[: sum(lengths)] * weights).sum(), qkv)
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_is_near_both_ways(kind: torch.dtype) -> None:
    if kind is torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("needs CUDA: the interpreter's bf16 is wrong")
    lengths = LENGTHS["ragged"]
    qkv, starts, long = case(lengths, 64, kind, 5)
    weights = torch.linspace(-1, 1, 42 * 2 * 64, device=DEVICE).view(42, 2, 64)
    expected = plain(qkv, lengths)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), qkv)
    found = attend_rows(qkv, starts, long, 17, 0.0)[:42].float()
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    (gradient,) = torch.autograd.grad((found * weights).sum(), qkv)
    torch.testing.assert_close(gradient.float(), wanted.float(), atol=0.02, rtol=0.02)


def test_dropout_is_one_mask_both_ways_and_a_fair_one() -> None:
    lengths, rate = [16] * 12, 0.25
    qkv, starts, long = case(lengths, 16, torch.float32, 0)
    torch.manual_seed(0)
    with torch.no_grad():
        qkv[:, :2] = 0.0  # equal weights, and values that tell which were kept
        qkv[:, 2] = torch.eye(16, device=DEVICE).repeat(12, 1)[:, None]
    found = attend_rows(qkv, starts, long, 16, rate)  # the weights themselves
    kept = found > 0
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / 16 / (1 - rate)))
    assert abs(float(kept.float().mean()) - (1 - rate)) < 0.02
    assert not torch.equal(kept[:16], kept[16:32])
    assert not torch.equal(kept[:, 0], kept[:, 1])
    torch.autograd.backward(found.sum())
    assert qkv.grad is not None
    into = found.detach().view(12, 16, 2, 16).sum(1)  # of each value, the weights that it was used with
    of_values = qkv.grad[:, 2].view(12, 16, 2, 16)[..., 0].transpose(1, 2)
    torch.testing.assert_close(of_values, into, atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    again = attend_rows(qkv, starts, long, 16, rate)
    torch.testing.assert_close(again, found)
    assert not torch.equal(attend_rows(qkv, starts, long, 16, rate), found)


@pytest.mark.parametrize("width", [32, 384])
def test_addition_with_norm(width: int) -> None:
    norm = nn.LayerNorm(width, eps=1e-12).to(DEVICE)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, change = (torch.randn(7, width, generator=torch.Generator().manual_seed(i)).to(DEVICE) for i in range(2))
    torch.testing.assert_close(add_norm(x, change, norm), norm(x + change), atol=1e-5, rtol=1e-5)


def test_where_they_are_used() -> None:
    assert available()
    assert short(128, torch.device(DEVICE)) == (DEVICE == "cuda")
    assert not short(129, torch.device(DEVICE))
