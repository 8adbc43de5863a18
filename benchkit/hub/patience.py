"""Trying again, a little later each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from benchkit.errors import UserError

T = TypeVar("T")

_NOTICED = 3.0  # seconds


@dataclass(frozen=True)
class Patience:
    """How often and how long to wait for a server that fails.

    Attributes:
        tries: without anything new, before giving up.
        unreachable: the same, where there is not even a connection.
        pause: seconds after the first failure; doubled after each further one.
        longest: seconds that a server may ask for (`Retry-After`).
    """

    tries: int = 5
    unreachable: int = 2
    pause: float = 1.0
    longest: float = 60.0


class BusyError(Exception):
    """A failure that may pass.

    Attributes:
        wait: what the server asked for, in seconds.
        connected: whether there was a connection.
    """

    def __init__(self, reason: str, wait: float = 0.0, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait, self.connected = wait, connected


def insist(
    attempt: Callable[[], T],
    url: str,
    advice: str,
    patience: Patience,
    tell: Callable[[str], None],
    here: Callable[[], int] = lambda: 0,
) -> T:
    """What `attempt` gives, once it does not raise `BusyError`.

    Args:
        url, advice: for the message of a failure.
        tell: hears of a wait that a user would wonder about.
        here: bytes that earlier attempts have left; while they grow, there is hope.

    Raises:
        UserError: it failed as often as `patience` allows.
    """
    failures = 0
    while True:
        before = here()
        try:
            return attempt()
        except BusyError as error:
            failures = 1 if here() > before else failures + 1
            if failures >= (patience.tries if error.connected else patience.unreachable):
                kept = f"; {here():,} bytes are kept, the same command goes on from there" if here() else ""
                raise UserError(f"cannot fetch {url}: {error}{kept}; {advice}") from error
            wait = min(max(patience.pause * 2 ** (failures - 1), error.wait), patience.longest)
            if wait >= _NOTICED:
                tell(f"{error}: trying again in {wait:.0f} s")
            time.sleep(wait)
