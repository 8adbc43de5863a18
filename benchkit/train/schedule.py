"""Learning rates over a phase."""

from __future__ import annotations

import math

from benchkit.protocol import Phase


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
