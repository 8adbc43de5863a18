"""Values from `--set`, TOML and Python become fields of the right type, or one line that says why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from benchkit.core.errors import UserError
from benchkit.core.settings import apply, plain, read_json


@dataclass(frozen=True)
class Sample:
    flag: bool = False
    count: int = 1
    rate: float = 0.5
    word: str = "a"
    kind: Literal["red", "green"] = "red"
    sizes: tuple[int, ...] = (1, 2)
    names: tuple[str, ...] = ()
    maybe: int | None = 3
    maybe_rate: float | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is negative")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("flag", True, True),
        ("flag", "true", True),
        ("flag", "Yes", True),
        ("flag", "on", True),
        ("flag", "1", True),
        ("flag", 1, True),
        ("flag", "FALSE", False),
        ("flag", "no", False),
        ("flag", "off", False),
        ("flag", 0, False),
        ("count", 7, 7),
        ("count", "7", 7),
        ("count", 3.0, 3),
        ("rate", "1e-3", 1e-3),
        ("rate", 2, 2.0),
        ("word", "7", "7"),
        ("word", "", ""),
        ("kind", "green", "green"),
        ("sizes", [3, 4], (3, 4)),
        ("sizes", "3,4", (3, 4)),
        ("sizes", "[3, 4]", (3, 4)),
        ("sizes", "(3,)", (3,)),
        ("sizes", "-1", (-1,)),
        ("sizes", 5, (5,)),
        ("sizes", "", ()),
        ("sizes", [1.0, "2"], (1, 2)),
        ("names", "a, b", ("a", "b")),
        ("names", ("a",), ("a",)),
        ("maybe", "none", None),
        ("maybe", "None", None),
        ("maybe", None, None),
        ("maybe", "4", 4),
        ("maybe_rate", "0.25", 0.25),
    ],
)
def test_a_value_becomes_the_fields_type(name: str, value: Any, expected: Any) -> None:
    got = getattr(apply(Sample(), {name: value}, ""), name)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flag", "maybe"),
        ("flag", 2),
        ("flag", None),
        ("count", "3.5"),
        ("count", 3.5),
        ("count", "x"),
        ("count", True),
        ("count", float("nan")),
        ("count", float("inf")),
        ("count", None),
        ("count", [1]),
        ("rate", "fast"),
        ("rate", False),
        ("rate", [0.1]),
        pytest.param("rate", 10**400, id="rate-huge"),
        ("word", 3),
        ("word", None),
        ("word", ["a"]),
        ("kind", "blue"),
        ("kind", 1),
        ("kind", ["red"]),
        ("sizes", "1,x"),
        ("sizes", [1, 2.5]),
        ("sizes", [True]),
        ("names", [1]),
        ("maybe", "x"),
        ("maybe", True),
    ],
)
def test_a_value_of_another_type_is_one_line_that_names_the_field(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^part\.{name}\b") as caught:
        apply(Sample(), {name: value}, "part")
    assert "\n" not in str(caught.value)
    wrong = value[-1] if isinstance(value, list) and name in ("sizes", "names") else value
    assert repr(wrong)[:20] in str(caught.value) or str(value).split(",")[-1] in str(caught.value)


def test_a_literal_lists_its_choices() -> None:
    with pytest.raises(UserError, match="red, green"):
        apply(Sample(), {"kind": "blue"}, "")


@pytest.mark.parametrize(("where", "shown"), [("", "coutn"), ("cnn", "cnn.coutn")])
def test_an_unknown_field_names_the_nearest(where: str, shown: str) -> None:
    near = shown.replace("coutn", "count")
    with pytest.raises(UserError, match=f"'{shown}'.*did you mean '{near}'") as caught:
        apply(Sample(), {"coutn": 1}, where)
    assert "\n" not in str(caught.value)
    assert all(field.name in str(caught.value) for field in dataclasses.fields(Sample))


def test_a_field_like_no_other_gets_no_suggestion() -> None:
    with pytest.raises(UserError) as caught:
        apply(Sample(), {"zzzzzzzz": 1}, "")
    assert "did you mean" not in str(caught.value)


def test_the_given_settings_stay_as_they_are() -> None:
    before = Sample()
    after = apply(before, {"count": 2, "word": "b"}, "")
    assert before == Sample()
    assert after == dataclasses.replace(before, count=2, word="b")


def test_what_the_dataclass_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="count is negative"):
        apply(Sample(), {"count": "-1"}, "")


def test_plain_is_json_data() -> None:
    @dataclass(frozen=True)
    class Outer:
        inner: Sample
        table: Mapping[str, Any]

    values = plain(Outer(Sample(), {"a": (1, (2,)), "b": {"c": ()}}))
    assert values["inner"]["sizes"] == [1, 2]
    assert values["table"] == {"a": [1, [2]], "b": {"c": []}}
    assert type(values["inner"]["names"]) is list


def test_plain_and_apply_are_inverse() -> None:
    sample = Sample(True, 4, 0.1, "b", "green", (9,), ("x", "y"), None, 0.5)
    assert apply(Sample(), plain(sample), "") == sample


@pytest.mark.parametrize("content", [b'{"a": "\xc3\xa9"}', b'\xef\xbb\xbf{"a": "\\u00e9"}', b'{"a": "\\ud83d\\ude00"}'])
def test_a_json_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") in ({"a": "é"}, {"a": "😀"})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"a": ', "cannot be read as JSON"),
        (b'{"a": "\xff"}', "cannot be read as JSON"),
        (b"[1]", "a JSON object is expected, not a list"),
        (b'{"a": "\\ud83d"}', "half of a character"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "cannot be read as JSON"),
        (b" " * 2000, "has more than 0 MiB"),
    ],
)
def test_what_is_no_json_object_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    if content.isspace():
        monkeypatch.setattr("benchkit.core.settings.LARGEST_JSON", 1000)
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(str(tmp_path / "a.json"))
    assert "\n" not in str(caught.value)


def test_a_json_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UserError, match="cannot be read: "):
            read_json(path)
