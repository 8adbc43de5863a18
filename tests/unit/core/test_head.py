"""Head specs: options and their search, configuration with its mistakes, and what a head's source is."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch import nn

from benchkit.core.errors import UserError
from benchkit.core.features import Pooled, Tokens
from benchkit.core.head import Choice, HeadSpec, Range, option


@dataclass(frozen=True)
class Config:
    width: int = option(4, low=2, high=8, log=True, help="how wide")
    kind: str = option("a", choices=("a", "b"))
    rate: float = option(0.5, low=0.0, high=1.0)
    free: str = option("x")

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("width must be positive")


class Net(nn.Module):
    pass


SPEC = HeadSpec("net", "A net.", Net, Config)


def test_options_say_how_they_are_searched() -> None:
    fields = {field.name: field.metadata for field in dataclasses.fields(Config)}
    assert fields["width"] == {"search": Range(2, 8, log=True), "help": "how wide"}
    assert fields["kind"]["search"] == Choice(("a", "b"))
    assert fields["rate"]["search"] == Range(0.0, 1.0)
    assert fields["free"]["search"] is None


def test_an_option_is_searched_one_way() -> None:
    for wrong in ({"low": 1}, {"high": 1}, {"low": 1, "high": 2, "choices": (1,)}, {"low": 0, "choices": (0,)}):
        with pytest.raises(TypeError, match="low and high together, or choices"):
            option(1, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 3, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"choices": (2, 3)},
    ],
    ids=["empty range", "log of zero", "default is no choice"],
)
def test_an_option_that_no_search_could_use_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        option(1, **wrong)  # type: ignore[arg-type]


def test_a_spec_is_frozen_and_reads_pooled_unless_it_says_otherwise() -> None:
    assert SPEC.reads is Pooled
    assert dataclasses.replace(SPEC, reads=Tokens).reads is Tokens
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.name = "other"  # type: ignore[misc]


def test_values_are_read_as_the_configs_types() -> None:
    assert SPEC.configure({}) == Config()
    assert SPEC.configure({"width": "6", "kind": "b", "rate": "0"}) == Config(6, "b", 0.0)
    assert SPEC.configure({"width": 100}).width == 100, "a search range is no limit"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widht": 3}, r"'net\.widht'.*did you mean 'net\.width'"),
        ({"width": "wide"}, r"net\.width takes a whole number, not 'wide'"),
        ({"width": 2.5}, r"net\.width takes a whole number"),
        ({"kind": "c"}, r"net\.kind is one of a, b, not 'c'"),
        ({"width": 0}, "'net': width must be positive"),
        ({"rate": "nan"}, r"net.*rate"),
        ({"rate": "inf"}, r"net.*rate"),
    ],
)
def test_a_wrong_value_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        SPEC.configure(values)
    assert "\n" not in str(caught.value)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a head in a folder below, which borrows layers from a module above."""
    root = tmp_path / "tiny_package"
    (root / "heads").mkdir(parents=True)
    (root / "__init__.py").write_text("", encoding="utf-8")
    (root / "layers.py").write_text("WIDTH = 4\n", encoding="utf-8")
    (root / "heads" / "__init__.py").write_text("", encoding="utf-8")
    (root / "heads" / "net.py").write_text(
        "from tiny_package import layers\n\n\nclass Net:\n    pass\n", encoding="utf-8"
    )
    (tmp_path / "tiny_single.py").write_text("class Net:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    for name in [name for name in sys.modules if name.startswith("tiny_")]:
        del sys.modules[name]


def source_of(module: str) -> str:
    return HeadSpec("net", "", importlib.import_module(module).Net, Config).source()


@pytest.mark.parametrize("changed", ["heads/net.py", "heads/__init__.py", "layers.py"])
def test_any_module_of_its_package_is_a_heads_source(package: Path, changed: str) -> None:
    before = source_of("tiny_package.heads.net")
    assert source_of("tiny_package.heads.net") == before
    (package / changed).write_text("WIDTH = 5\n", encoding="utf-8")
    assert source_of("tiny_package.heads.net") != before


def test_a_head_in_one_module_has_no_other_source(package: Path) -> None:
    before = source_of("tiny_single")
    (package / "layers.py").write_text("# changed\n", encoding="utf-8")
    (package.parent / "tiny_neighbour.py").write_text("", encoding="utf-8")
    assert source_of("tiny_single") == before
    (package.parent / "tiny_single.py").write_text("class Net:\n    width = 1\n", encoding="utf-8")
    assert source_of("tiny_single") != before


def test_a_head_typed_into_an_interpreter_cannot_be_keyed() -> None:
    typed = type("Net", (nn.Module,), {"__module__": "__nowhere__"})
    with pytest.raises(UserError, match=r"'net'.*no source file"):
        HeadSpec("net", "", typed, Config).source()
