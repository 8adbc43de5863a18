"""Progress for tests."""

from __future__ import annotations


class Silent:
    """A `benchkit.core.progress.Progress` that shows nothing."""

    def start(self, name: str, done: int, total: int | None, unit: str = "B") -> None: ...

    def advance(self, count: int, note: str = "") -> None: ...

    def stop(self) -> None: ...

    def say(self, line: str) -> None: ...
