"""AdamW (Loshchilov & Hutter 2019) as torch computes it, fused, without torch's optimiser class around it.

`torch.optim.AdamW` imports TorchDynamo when it is made, to tell it to keep out: nearly two seconds in every process
that trains, for nothing that is used here. The numbers are the same to the last bit; a test holds them together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from benchkit.core.protocol import Phase

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
_PARTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Group:
    """Parameters with one rate and one weight decay.

    Attributes:
        numbers: of the parameters.
        scale: their rate is the phase's rate times this.
    """

    numbers: Sequence[int]
    scale: float
    weight_decay: float


def groups_of(modules: nn.Module, settings: Phase) -> list[Group]:
    """The parameters of `head` and `encoder` by rate and weight decay, as a phase's settings say."""
    found: dict[tuple[float, float], list[int]] = {}
    named = list(modules.named_parameters())
    layers = {match[1] for name, _ in named if (match := _LAYER.match(name))}
    for number, (name, parameter) in enumerate(named):
        scale = _scale(name, len(layers), settings)
        matrix = parameter.ndim > 1 or settings.decays == "all"
        found.setdefault((scale, settings.weight_decay if matrix else 0.0), []).append(number)
    return [Group(numbers, scale, decay) for (scale, decay), numbers in found.items()]


def _scale(name: str, layers: int, settings: Phase) -> float:
    """The rate of a parameter over the phase's."""
    if not name.startswith("encoder."):
        return 1.0
    layer = _LAYER.match(name)
    above = layers - 1 - int(layer[1]) if layer else 0 if name.startswith("encoder.pooler.") else layers
    own = settings.encoder_learning_rate / settings.learning_rate if settings.encoder_learning_rate else 1.0
    return float(own * settings.layer_decay**above)


class Average:
    """The exponential moving average of a module's parameters over steps.

    Its decay rises to its value over the first steps, so that the initial weights are forgotten.
    """

    def __init__(self, modules: nn.Module, decay: float) -> None:
        self.modules, self.decay, self.steps = modules, decay, 0
        self.weights = [each.detach().clone() for each in modules.parameters()]

    @torch.no_grad()
    def update(self) -> None:
        """Take one step's weights in."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.weights, [each.detach() for each in self.modules.parameters()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The modules compute with the average meanwhile."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mine, each in zip(self.weights, self.modules.parameters(), strict=True):
            kept = each.detach().clone()
            each.copy_(mine)
            mine.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        for mine, each in zip(self.weights, state["weights"], strict=True):
            mine.copy_(each)


class AdamW:
    """Steps of all parameters that have a gradient; betas and epsilon are torch's defaults.

    Attributes:
        lr: rate of the last step.
        state: by number of the parameter, what torch keeps of it; nothing before its first gradient.
        average: of the parameters, to be updated after each step; None where none is asked for.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], weight_decay: float, groups: Sequence[Group] | None = None
    ) -> None:
        self.parameters, self.lr = list(parameters), 0.0
        self.average: Average | None = None
        self.groups = groups or [Group(range(len(self.parameters)), 1.0, weight_decay)]
        self.state: dict[int, dict[str, Tensor]] = {}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, lr: float | Tensor) -> None:
        """Update all parameters that have a gradient.

        Args:
            lr: a number, or a tensor () float32 on the parameters' device, which is read there and not stored in `lr`.
        """
        if not isinstance(lr, Tensor):
            self.lr = lr
        for group in self.groups:
            self._step(group, lr if group.scale == 1 else lr * group.scale)

    def _step(self, group: Group, lr: float | Tensor) -> None:
        given = [(number, self.parameters[number]) for number in group.numbers]
        moved = [(number, each, each.grad) for number, each in given if each.grad is not None]
        if not moved:
            return
        for number, parameter, _ in moved:
            if number not in self.state:
                self.state[number] = {
                    "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        steps, means, squares = ([self.state[number][part] for number, _, _ in moved] for part in _PARTS)
        adamw(
            [parameter for _, parameter, _ in moved],
            [gradient for _, _, gradient in moved],
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=group.weight_decay,
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
