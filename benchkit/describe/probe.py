"""Small made-up features, and names for the axes of what a head makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchkit.features import Layers, Pooled, Tokens


@dataclass(frozen=True)
class Probe:
    """Sizes of a batch of features; no `layers` where the head does not read them apart. `batch` and `time` are primes,
    to be told apart from anything else.
    """

    segments: int
    hidden: int
    layers: int
    batch: int = 3
    time: int = 7

    def features(self, reads: type[Pooled]) -> Pooled:
        """Random features, the same each time, with sentences of different lengths."""
        random = torch.Generator().manual_seed(0)
        shape = (self.batch, self.segments)
        if issubclass(reads, Layers):
            return Layers.split(torch.randn(*shape, self.layers * self.hidden, generator=random), self.layers)
        pooled = torch.randn(*shape, self.hidden, generator=random)
        if not issubclass(reads, Tokens):
            return Pooled(pooled)
        tokens = torch.randn(*shape, self.time, self.hidden, generator=random)
        lengths = torch.randint(2, self.time + 1, (*shape, 1), generator=random)
        lengths[0] = self.time
        mask = torch.arange(self.time) < lengths
        return Tokens(pooled, tokens * mask.unsqueeze(-1), mask)


def name_axes(shapes: Sequence[Sequence[int]], probes: Sequence[Probe]) -> tuple[str, ...]:
    """Names of a tensor's axes, from its shape under several probes; an axis without a name is its size.

    An axis is called after what it changes with: `batch`, `time`, `hidden`, or products such as `batch·segment`.
    `segment` is the second axis of a batch, and `layer` the one before the last, where they have the probe's sizes.
    """
    if len({len(shape) for shape in shapes}) > 1:
        return tuple(map(str, shapes[0]))
    names = [_name(sizes, probes) for sizes in zip(*shapes, strict=True)]
    if len(names) > 2 and names[0] == "batch" and shapes[0][1] == probes[0].segments:
        names[1] = "segment"
    layer = len(names) - 2
    if layer > 0 and shapes[0][layer] == probes[0].layers and names[layer - 1] in ("segment", "batch·segment"):
        names[layer] = "layer"
    return tuple(names)


def _name(sizes: Sequence[int], probes: Sequence[Probe]) -> str:
    first, varies = sizes[0], len({*sizes}) > 1
    if not varies:
        return str(first)
    pairs = list(zip(sizes, probes, strict=True))
    for name, known in _KNOWN.items():
        if all(size == known(probe) for size, probe in pairs):
            return name
    # Of a pooled or convolved `hidden` the size is known; of a sentence's length it is not.
    if first != sizes[1]:
        offset = first - probes[0].time
        return f"time{offset:+d}".replace("-", "−") if all(size - p.time == offset for size, p in pairs) else "varies"
    return str(first)


_KNOWN: dict[str, Callable[[Probe], int]] = {
    "batch": lambda probe: probe.batch,
    "time": lambda probe: probe.time,
    "hidden": lambda probe: probe.hidden,
    "batch·segment": lambda probe: probe.batch * probe.segments,
    "batch·time": lambda probe: probe.batch * probe.time,
    "batch·segment·time": lambda probe: probe.batch * probe.segments * probe.time,
    "segment·time": lambda probe: probe.segments * probe.time,
    "segment·hidden": lambda probe: probe.segments * probe.hidden,
    "layer·hidden": lambda probe: probe.layers * probe.hidden,
}
