"""Locks between processes, released when their holder dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from benchkit.store.atomic import writing
from benchkit.turns import sleep

_POLL = 0.05  # seconds


@contextmanager
def locked(path: Path, *, wait: bool, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock of the file `path`, which stays there empty: removing it would split those who wait.

    Args:
        wait: wait for another holder; else go on without the lock.
        on_wait: called once if there is another holder to wait for.

    Yields:
        Whether the lock is held; always True with `wait`.

    Raises:
        UserError: the folder cannot be written.
    """
    lock = FileLock(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if wait:
                if on_wait:
                    on_wait()
                while not lock.is_locked:  # its holder may wait for a cell that takes turns with this one
                    sleep(_POLL)
                    with suppress(Timeout):
                        lock.acquire(blocking=False)
    try:
        yield lock.is_locked
    finally:
        lock.release()
