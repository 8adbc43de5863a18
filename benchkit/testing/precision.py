"""Checks of a head in half precision and under the compiler."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from torch import nn

from benchkit.head import HeadSpec
from benchkit.testing.samples import FEW, TASKS, build, each_tensor, features, gap, run
from benchkit.testing.verdict import Failed, check

_BF16 = 0.1  # of the label range, or of the largest logit; bf16 keeps 8 bits


@check
def bf16(spec: HeadSpec) -> None:
    """Runs in bf16, under autocast and as a whole, near what it gives in fp32."""
    for shape in TASKS:
        head, given = build(spec).eval(), features(spec.reads, shape)
        exact = run(head, given, shape).detach()
        size = shape.high - shape.low if not shape.classes else max(1.0, float(exact.abs().max()))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = run(head, given, shape)
        mixed.float().square().sum().backward()  # type: ignore[no-untyped-call]
        if not all(each.grad.isfinite().all() for each in head.parameters() if each.grad is not None):
            raise Failed(f"{shape.name}: a gradient under autocast is not finite")
        try:
            whole = run(head.bfloat16(), each_tensor(given, torch.Tensor.bfloat16), shape)
        except Failed as found:
            raise Failed(f"with weights and features in bf16, {found}") from found
        for how, outputs in (("under autocast", mixed), ("with weights in bf16", whole)):
            if not (outputs.float() - exact).abs().max() <= _BF16 * size:
                raise Failed(f"{shape.name}: {how} the output is more than {_BF16 * size:.2g} away from fp32's")


@check
def compiles(spec: HeadSpec) -> None:
    """Gives the same under `torch.compile`.

    With the `eager` backend: it shows that TorchDynamo can trace the forward, or break it into graphs, without an error
    and without another result. It makes no machine code, so it needs no compiler and says nothing of speed.
    """
    head = build(spec).eval()
    for shape in FEW:
        given = features(spec.reads, shape)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about what it meets while it traces
            torch._dynamo.reset()  # each task is another graph, of which it keeps few
            compiled = cast("nn.Module", torch.compile(head, backend="eager"))
            if difference := gap(run(head, given, shape), run(compiled, given, shape)):
                raise Failed(f"{shape.name}: compiled, the output moves by {difference:.2g}")
