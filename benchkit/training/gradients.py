"""Whether tasks pull what they share apart: cosines of their gradients, as gradient surgery looks at (Yu et al. 2020).

Measured once an epoch on a fixed batch of each task, dropout off. It leaves the weights, gradients, buffers and random
streams of the training alone, so that training with it and without it gives the same numbers.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchkit.core.record import Cosine
from benchkit.core.rng import generator, global_stream
from benchkit.training.evaluation import Reader, forward

if TYPE_CHECKING:
    from benchkit.training.evaluation import PhaseContext


_EXAMPLES = 64  # of each task
_PARTS = {"head": "trunk", "encoder": "encoder"}

Gradient = dict[str, Tensor]
"""By parameter, of those that the task's loss depends on."""


def cosines(context: PhaseContext, modules: nn.ModuleDict, reader: Reader, epoch: int) -> list[Cosine]:
    """Of each pair of tasks, on what both depend on; a pair without a direction, as of a zero gradient, is left out."""
    modules.eval()
    with ExitStack() as stack:
        # A stranger's head may draw numbers even in eval mode.
        stack.enter_context(global_stream(context.seed, "interference", context.phase, epoch))
        if context.device.type == "cuda":  # cuDNN has no backward of a recurrent layer in eval mode
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        gradients = {name: _gradient(context, modules, reader, name) for name in context.tasks}
    return [
        Cosine(epoch, _PARTS[module], a, b, value)
        for a, b in combinations(gradients, 2)
        for module in modules
        if (value := _cosine(gradients[a], gradients[b], f"{module}.")) is not None
    ]


def _gradient(context: PhaseContext, modules: nn.ModuleDict, reader: Reader, task: str) -> Gradient:
    """Of the task's mean loss over its batch, in pieces as large as a training step, which fit in memory."""
    part, named = context.corpus.parts[task, "train"], dict(modules.named_parameters())
    assert part.labels is not None
    drawn = torch.randperm(len(part), generator=generator(context.seed, "interference", context.phase, task))[
        :_EXAMPLES
    ]
    total: Gradient = {}
    for examples in torch.split(drawn, context.settings.batch_size):
        with torch.autocast(context.device.type, torch.bfloat16, enabled=context.autocast):
            features = reader.gather(part.rows[examples])
        outputs = forward(modules["head"], features, context.shapes[task], len(examples))
        loss = context.losses[task](outputs, part.labels[examples].to(context.device), context.shapes[task])
        share = loss * (len(examples) / len(drawn))
        found = torch.autograd.grad(share, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None:
                total[name] = total[name] + gradient if name in total else gradient
    return total


def _cosine(a: Gradient, b: Gradient, prefix: str) -> float | None:
    """On the parameters of one module that both have a gradient for; None where there is no direction."""
    shared = [name for name in a if name in b and name.startswith(prefix)]
    dot, first, second = (
        sum(float((x[name].double() * y[name].double()).sum()) for name in shared) for x, y in ((a, b), (a, a), (b, b))
    )
    scale = (first * second) ** 0.5
    value = dot / scale if scale > 0 else float("nan")
    return value if value == value else None  # not a number: nothing shared, or training that has left the rails
