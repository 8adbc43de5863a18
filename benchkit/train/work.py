"""What a phase of a cell trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchkit.protocol import Phase
from benchkit.task import Loss, TaskShape, TaskSpec
from benchkit.train.corpus import Corpus
from benchkit.train.order import Order


def _ignore(line: str) -> None:
    pass


@dataclass(frozen=True)
class Work:
    """What one phase of one cell trains on.

    Attributes:
        constant_losses: by task, the loss of the best constant prediction on train.
        autocast: run the encoder's forward in bf16; weights and optimiser state stay fp32.
        interference: measure after each epoch how the tasks' gradients agree.
        fixed: take steps of a few fixed shapes (`benchkit.train.fixed`), as `graphs` and `compiled` ask for.
        graphs: capture them as CUDA graphs.
        compiled: hand the encoder's layers to `torch.compile`.
        early: with fixed steps, move a layer's weights while the way back is in the layers before it, if there is room.
        log: told what a user should know, a line each.
    """

    phase: str
    settings: Phase
    tasks: Mapping[str, TaskSpec]
    shapes: Mapping[str, TaskShape]
    losses: Mapping[str, Loss]
    constant_losses: Mapping[str, float]
    corpus: Corpus
    order: Order
    seed: int
    device: torch.device
    autocast: bool = False
    interference: bool = False
    fixed: bool = False
    graphs: bool = False
    compiled: bool = False
    early: bool = True
    log: Callable[[str], None] = _ignore
