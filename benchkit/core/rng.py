"""Independent random streams from one seed.

Each purpose has a stream of its own, so that a head which draws more numbers for its initial weights, or has more
dropout, does not change the order of the batches: two heads with one seed see the same data in the same order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for one stream, such as `derive(3, "order", "pretrain")`."""
    name = "/".join(str(part) for part in (seed, *stream))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator for one stream."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *stream))


@contextmanager
def global_stream(seed: int, *stream: str | int) -> Iterator[None]:
    """Seed torch's global generators (initial weights and dropout draw from them), and restore them after."""
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derive(seed, *stream))
        yield
