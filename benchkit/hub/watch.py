"""Who is told how a download goes."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Called in the order `start`, `advance` …, `stop`; `say` at any time."""

    def start(self, name: str, done: int, total: int | None) -> None:
        """A file begins: `done` bytes of it are here from an earlier try, `total` there will be, if known."""

    def advance(self, size: int) -> None:
        """So many more bytes are here; negative where the server sends the file from its beginning again."""

    def stop(self) -> None:
        """The file is whole, or given up."""

    def say(self, line: str) -> None:
        """A line for the user."""


class Silent:
    """A `Watch` that tells nobody."""

    def start(self, name: str, done: int, total: int | None) -> None: ...

    def advance(self, size: int) -> None: ...

    def stop(self) -> None: ...

    def say(self, line: str) -> None: ...
