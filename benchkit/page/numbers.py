"""Numbers as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from benchkit.report.stats import Spread

NOTHING = "–"


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457`, `−0.012`, `+0.012` where signed; a dash for none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def plus_minus(over: Spread, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457 ± 0.012`; one seed has no ±."""
    mean = number(over.mean, signed=signed, digits=digits)
    return f"{mean} ± {over.std:.{digits}f}" if over.n > 1 else mean


def interval(low: float, high: float, *, signed: bool = False) -> str:
    """`0.441 to 0.473`: words, as a dash between signed numbers cannot be read."""
    return f"{number(low, signed=signed)} to {number(high, signed=signed)}" if math.isfinite(low) else NOTHING


def ranges(values: Iterable[int]) -> str:
    """`0–9, 12`."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in parts)


def p_value(p: float) -> str:
    """`0.032`, `< 0.001`."""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"
