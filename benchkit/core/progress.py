"""How whoever does long work says how far it is. `benchkit.cli.progress` shows it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called in the order `start`, `advance` …, `stop` for each piece of work; `say` at any time."""

    def start(self, name: str, done: int, total: int | None, unit: str = "B") -> None:
        """Something begins of which `done` is there from an earlier time.

        Args:
            total: how much there will be, if known.
            unit: what is counted, such as `texts`; `B` for bytes.
        """

    def advance(self, count: int, note: str = "") -> None:
        """So much more is done; negative where something begins again. `note` is shown until the next one."""

    def stop(self) -> None:
        """It is complete, or given up."""

    def say(self, line: str) -> None:
        """A line for the user."""
