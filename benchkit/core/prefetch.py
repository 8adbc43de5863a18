"""Threads beside the main one: one prefetches batches for a GPU, one stores its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
_END: Any = object()


def prefetch(items: Iterable[_T]) -> Iterator[_T]:
    """The same items; a thread makes each while the one before is used.

    An exception in making an item is raised where the item would be yielded.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming: Future[_T] = pool.submit(next, source, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, source, _END)
            yield item


@contextmanager
def background_writer() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """A function that hands calls to a thread, one at a time; it waits while the call before is running.

    An exception in a call is raised by the next call, or at the end.
    """
    with ThreadPoolExecutor(1) as pool:
        last: list[Future[Any]] = []

        def later(call: Callable[[], Any]) -> None:
            while last:
                last.pop().result()
            last.append(pool.submit(call))

        yield later
        while last:
            last.pop().result()


@contextmanager
def synchronous() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """As `background_writer`, without a thread."""
    yield lambda call: call()
