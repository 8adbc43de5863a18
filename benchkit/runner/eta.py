"""How long a run will still take, from what its epochs took so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any


@dataclass
class Eta:
    """Follows a run's events.

    Attributes:
        cells: by key, `{"head", "phases": {name: epochs}, "done"}` as a `plan` event lists them.
        jobs: cells that run at once.
    """

    cells: Mapping[str, Mapping[str, Any]]
    jobs: int
    _epochs: dict[tuple[str, str], int] = field(default_factory=dict)
    _seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)

    def epoch(self, key: str, phase: str, epoch: int, seconds: float) -> None:
        """A cell has finished an epoch; `seconds` is what the phase took so far."""
        for earlier, epochs in self.cells[key]["phases"].items():  # a resumed cell does not report those again
            if earlier == phase:
                break
            self._epochs[key, earlier] = epochs
        self._epochs[key, phase] = epoch
        self._seconds.setdefault((self.cells[key]["head"], phase), []).append(seconds / epoch)

    def end(self, key: str) -> None:
        self._ended.add(key)

    def left(self) -> tuple[float, bool]:
        """Seconds left, and whether every part of it is known; parts of which nothing has run yet count as nothing."""
        each, known = [0.0], True
        for key, cell in self.cells.items():
            if cell["done"] or key in self._ended:
                continue
            seconds = 0.0
            for phase, epochs in cell["phases"].items():
                one = self._per_epoch(cell["head"], phase)
                remaining = epochs - self._epochs.get((key, phase), 0)
                known = known and (one is not None or not remaining)
                seconds += remaining * (one or 0.0)
            each.append(seconds)
        return max(sum(each) / self.jobs, max(each)), known

    def _per_epoch(self, head: str, phase: str) -> float | None:
        """Mean seconds of this head's epochs in a phase; of all heads' where it has had none."""
        own = self._seconds.get((head, phase))
        others = [value for (_, name), values in self._seconds.items() if name == phase for value in values]
        return mean(own) if own else mean(others) if others else None


def clock(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def total_epochs(cells: Sequence[Mapping[str, Any]]) -> int:
    return sum(sum(cell["phases"].values()) for cell in cells if not cell["done"])
