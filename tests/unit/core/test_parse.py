"""JSON becomes a dataclass, or one line says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from benchkit.core.settings import parse, plain


@dataclass(frozen=True)
class Inner:
    low: float = 0.0
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    many: tuple[Inner, ...] = ()
    counts: Mapping[str, int] | None = None
    size: int | None = None
    free: Any = None


WHOLE = Outer("x", Inner(0.5, "b"), (Inner(1.0),), {"train": 3}, 7, {"any": [1, None]})


def test_there_and_back() -> None:
    assert parse(Outer, json.loads(json.dumps(plain(WHOLE))), "file") == WHOLE


def test_integers_are_numbers_and_unknown_fields_are_passed_over() -> None:
    assert parse(Outer, {"name": "x", "inner": {"low": 1, "new": []}}, "file") == Outer("x", Inner(1.0))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "file takes an object"),
        ({"name": "x"}, "file lacks inner"),
        ({"name": 1, "inner": {}}, "name takes text, not 1"),
        ({"name": "x", "inner": None}, "inner takes an object, not None"),
        ({"name": "x", "inner": {"low": "1"}}, "low takes a finite number, not '1'"),
        ({"name": "x", "inner": {"low": True}}, "low takes a finite number, not True"),
        ({"name": "x", "inner": {"kind": "c"}}, "kind is one of a, b, not 'c'"),
        ({"name": "x", "inner": {"kind": []}}, "kind is one of"),
        ({"name": "x", "inner": {}, "many": {}}, "many takes a list"),
        ({"name": "x", "inner": {}, "many": [1]}, "many.0. takes an object, not 1"),
        ({"name": "x", "inner": {}, "counts": {"train": 1.5}}, "counts.train takes a whole number, not 1.5"),
        ({"name": "x", "inner": {}, "size": True}, "size takes a whole number, not True"),
    ],
)
def test_what_is_of_another_form_is_refused(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse(Outer, value, "file")
