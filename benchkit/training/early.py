"""The optimiser's part of a step of fixed shape; on a GPU, of a layer while the way back is in the layers before it.

A step of a small batch waits for latency on the way back, and for memory in AdamW, which reads and writes seven numbers
for each weight. So a layer's weights move, on a stream of their own, as soon as its gradients are there. Nobody needs
them again before the next step, and the numbers are the same. It buys 5 % of a step (results/LOG.md), for memory that
is the parameters' four times over, so it is done where there is plenty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchkit.encoder import MiniBert
from benchkit.training.optimizer import AdamW
from benchkit.training.readers import Halves

_ROOM = 16  # times the parameters: masters, moments, gradients and copies are six of them, moving early four more


@dataclass
class _Group:
    """One layer's parameters.

    Attributes:
        numbers: in the optimiser.
        halves: names of those that are computed with in copies.
        leaves: how many gradients are to come, and `left` how many still are in this step.
    """

    numbers: Sequence[int]
    halves: Sequence[str]
    leaves: int
    left: int


class Movement:
    """AdamW with the copies that are computed with: gradients from them before a move, new weights to them after.

    Attributes:
        rate: of the step that is being taken; to be set before the way back.
    """

    def __init__(self, optimizer: AdamW, halves: Halves | None = None) -> None:
        self.optimizer, self.halves, self.parameters = optimizer, halves, optimizer.parameters
        self.rate: Tensor | None = None
        self.groups: list[_Group] = []
        self.hooks: list[Any] = []
        self.moved: set[int] = set()
        self.active = False
        self.side: torch.cuda.Stream | None = None

    def layer_by_layer(self, model: MiniBert, device: torch.device) -> None:
        """From now on, move each layer as soon as its gradients are there; on a GPU on another stream."""
        if device.type == "cuda":
            self.side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        numbers = {id(each): number for number, each in enumerate(self.parameters)}
        copies = self.halves.copies if self.halves else {}
        for place, layer in enumerate(model.layers):
            names = {f"layers.{place}.{name}": each for name, each in layer.named_parameters()}
            own = [name for name in names if name in copies]
            group = _Group([numbers[id(each)] for each in names.values()], own, len(names), len(names))
            for name, each in names.items():
                leaf = copies.get(name, each)
                hook = partial(self._arrived, group)
                self.hooks.append(leaf.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
            self.groups.append(group)

    def close(self) -> None:
        """Let go of the weights: torch keeps a hook, and all that it knows, beyond garbage collection."""
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.groups.clear()

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Around the steps of an epoch; before it, weights may have changed by other hands."""
        if self.halves:
            self.halves.refresh()
        self.active = True
        try:
            yield
        finally:
            self.active = False

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()
        self.moved.clear()
        for group in self.groups:
            group.left = group.leaves

    def settle(self) -> None:
        """See that the gradients of what has not moved are where the optimiser looks for them."""
        if self.halves:
            self.halves.settle(self._late())

    def step(self, lr: float | Tensor) -> None:
        """Move what has not moved, and wait for what is moving."""
        self.optimizer.step(lr, [number for number in range(len(self.parameters)) if number not in self.moved])
        if self.halves:
            self.halves.refresh(self._late())
        if self.side is not None and self.moved:
            torch.cuda.current_stream(self.side.device).wait_stream(self.side)

    def _late(self) -> list[str]:
        """Names of the copies that are in no group which has moved."""
        assert self.halves is not None
        early = {name for group in self.groups if not group.left for name in group.halves}
        return [name for name in self.halves.copies if name not in early]

    def _arrived(self, group: _Group, leaf: Tensor) -> None:
        """One more gradient of a layer is there."""
        if not self.active:
            return
        group.left -= 1
        if group.left:
            return
        if self.side is None:
            self._move(group)
            return
        self.side.wait_stream(torch.cuda.current_stream(self.side.device))
        with torch.cuda.stream(self.side):
            self._move(group)

    def _move(self, group: _Group) -> None:
        assert self.rate is not None
        if self.halves:
            self.halves.settle(group.halves)
        self.optimizer.step(self.rate, group.numbers)
        if self.halves:
            self.halves.refresh(group.halves)
        self.moved.update(group.numbers)


def roomy(parameters: Sequence[nn.Parameter], device: torch.device) -> bool:
    """Whether a device has the memory for layers that move early, twice over."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return free > _ROOM * sum(each.numel() * each.element_size() for each in parameters)
