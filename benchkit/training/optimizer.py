"""AdamW (Loshchilov & Hutter 2019) as torch computes it, fused, without torch's optimiser class around it.

`torch.optim.AdamW` imports TorchDynamo when it is made, to tell it to keep out: nearly two seconds in every process
that trains, for nothing that is used here. The numbers are the same to the last bit; a test holds them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from benchkit.core.protocol import Phase

_PARTS = ("step", "exp_avg", "exp_avg_sq")


class AdamW:
    """Steps of all parameters that have a gradient; betas and epsilon are torch's defaults.

    Attributes:
        lr: rate of the last step.
        state: by number of the parameter, what torch keeps of it; nothing before its first gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.weight_decay, self.lr = weight_decay, 0.0
        self.state: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Update all parameters that have a gradient.

        Args:
            lr: a tensor, () float32 on the parameters' device, is read there and not kept as `lr`.
        """
        if not isinstance(lr, Tensor):
            self.lr = lr
        moved = [(number, each) for number, each in enumerate(self.parameters) if each.grad is not None]
        if not moved:
            return
        for number, parameter in moved:
            if number not in self.state:
                self.state[number] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        steps, means, squares = ([self.state[number][part] for number, _ in moved] for part in _PARTS)
        adamw(
            [parameter for _, parameter in moved],
            [parameter.grad for _, parameter in moved if parameter.grad is not None],
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=self.weight_decay,
            eps=1e-8,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on; the tensors are its own."""
        return {"lr": self.lr, "state": {number: dict(parts) for number, parts in self.state.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.lr = state["lr"]
        self.state = {
            number: {part: parts[part].to(self.parameters[number].device, copy=True) for part in _PARTS}
            for number, parts in state["state"].items()
        }


def rate(phase: Phase, step: int, steps: int) -> float:
    """The learning rate of a 0-based step out of all the phase's steps."""
    warmup = round(phase.warmup * steps)
    if step < warmup:
        return phase.learning_rate * (step + 1) / warmup
    if phase.schedule == "constant":
        return phase.learning_rate
    progress = (step - warmup) / max(1, steps - warmup)
    if phase.schedule == "linear":
        return phase.learning_rate * (1 - progress)
    return phase.learning_rate * (1 + math.cos(math.pi * progress)) / 2
