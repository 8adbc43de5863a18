"""A thread ahead and a thread behind: the same items in the same order, and nothing raised is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from benchkit.core.prefetch import background_writer, prefetch, synchronous


def test_items_come_in_order_and_one_ahead() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(threading.current_thread())
            yield number

    assert list(prefetch(items())) == [0, 1, 2, 3]
    assert threading.main_thread() not in made


def test_what_making_an_item_raises_comes_after_those_before() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("no more")

    got = prefetch(items())
    assert next(got) == 0
    with pytest.raises(ValueError, match="no more"):
        next(got)


@pytest.mark.parametrize("how", [background_writer, synchronous])
def test_calls_are_made_in_order_and_all_of_them(how: Any) -> None:
    done: list[int] = []
    with how() as later:
        for number in range(5):
            later(partial(done.append, number))
    assert done == [0, 1, 2, 3, 4]


def test_what_a_call_raises_is_raised_by_the_next_or_at_the_end() -> None:
    def fail() -> None:
        raise OSError("disk full")

    done: list[int] = []
    with pytest.raises(OSError, match="disk full"):
        _all([fail, lambda: done.append(1)])
    assert not done
    with pytest.raises(OSError, match="disk full"):
        _all([fail])


def _all(calls: list[Callable[[], Any]]) -> None:
    with background_writer() as later:
        for call in calls:
            later(call)
