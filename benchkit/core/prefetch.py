"""Work that is done by a thread while this one goes on: what feeds a GPU, and what stores its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
_END: Any = object()


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The same items, each made while the one before is used. What making one raises is raised where it is due."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming: Future[_T] = pool.submit(next, source, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, source, _END)
            yield item


@contextmanager
def behind() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """A function that has calls made one after the other, and waits for the last one before it takes another.

    What a call raises is raised by the next, or at the end.
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
def directly() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """As `behind`, without a thread."""
    yield lambda call: call()
