"""Settings from outside: JSON files, and typed overrides of frozen dataclasses (`--set`, TOML and Python values)."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from benchkit.core.errors import UserError, unknown

T = TypeVar("T")

LARGEST_JSON = 2**26
"""Bytes of the largest JSON file that is read, 64 MiB: multilingual tokenizers have 17 MB."""

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that others wrote, with or without a byte order mark.

    Raises:
        UserError: the file cannot be read, has more than `LARGEST_JSON` bytes, is not UTF-8 or not JSON, is nested too
            deeply, holds half of a character, or holds something else than an object.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_JSON + 1)
        if len(data) > LARGEST_JSON:
            raise UserError(f"{path}: has more than {LARGEST_JSON >> 20} MiB, the limit for a JSON file")
        content = json.loads(data.decode("utf-8-sig"))
        if b"\\u" in data:  # an escape can be half of a character, which can be neither printed nor stored
            json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: holds half of a character (a lone surrogate)") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be read as JSON") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is expected, not a {type(content).__name__}")
    return content


def apply(settings: T, values: Mapping[str, Any], where: str) -> T:
    """A copy of a dataclass instance with `values` set; strings are read as the field's type.

    Args:
        where: prefix of the fields in messages, such as `pretrain` in `pretrain.epochs`; may be "".

    Raises:
        UserError: unknown field (with the nearest), or a value that is not of the field's type.
        ValueError: the dataclass's own `__post_init__` refused the values.
    """
    hints = typing.get_type_hints(type(settings))
    known = [field.name for field in dataclasses.fields(settings)]  # type: ignore[arg-type]
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise unknown("field", f"{where}.{name}".lstrip("."), [f"{where}.{k}".lstrip(".") for k in known])
        changes[name] = coerce(value, hints[name], f"{where}.{name}".lstrip("."))
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def coerce(value: Any, kind: Any, name: str) -> Any:
    """`value` as `kind` (bool, int, float, str, a tuple or mapping of one of them, or an optional one).

    Raises:
        UserError: it is something else.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        options = [arg for arg in get_args(kind) if arg is not type(None)]
        if value is None or (isinstance(value, str) and value.lower() in ("", "none")):
            return None
        return coerce(value, options[0], name)
    if origin is tuple:
        inner = get_args(kind)[0]
        parts = value.strip("[]()").split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            parts = [parts]
        return tuple(coerce(p.strip() if isinstance(p, str) else p, inner, name) for p in parts if p != "")
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} takes a table of names and values, not {value!r}")
        return {key: coerce(each, get_args(kind)[1], f"{name}.{key}") for key, each in value.items()}
    if origin is typing.Literal:
        choices = get_args(kind)
        value = next((each for each in choices if isinstance(value, str) and str(each) == value), value)
        if value not in choices:
            raise UserError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}")
        return value
    try:
        return _scalar(value, kind)
    except (TypeError, ValueError, OverflowError):
        article = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}.get(
            kind, str(kind)
        )
        raise UserError(f"{name} takes {article}, not {value!r}") from None


def _scalar(value: Any, kind: type) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        word = str(value).lower()
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise ValueError
    if isinstance(value, bool):
        raise TypeError
    if kind is int:
        if isinstance(value, float) and not value.is_integer():
            raise ValueError
        return int(value)
    if kind is float:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    if not isinstance(value, str):
        raise TypeError
    return value


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready data, tuples as lists."""

    def walk(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: walk(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [walk(each) for each in value]
        return value

    result = walk(dataclasses.asdict(settings))
    assert isinstance(result, dict)
    return result


def parse(kind: Any, value: Any, where: str = "") -> Any:
    """JSON data as `kind`: a dataclass, or what its fields may be; the inverse of `plain`, with every type checked.

    Args:
        kind: a dataclass, bool, int, float, str, Any, a Literal, or tuples, mappings and unions of these.
        where: the data's place in the whole, for messages.

    Raises:
        ValueError: something is missing or of another type; says what, and where. Unknown fields are passed over.
    """
    origin, options = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        kinds = [each for each in options if each is not type(None)]
        for each in kinds[:-1]:
            with contextlib.suppress(ValueError):
                return parse(each, value, where)
        return parse(kinds[-1], value, where)
    if origin is typing.Literal and value in options:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(parse(options[0], each, f"{where}[{place}]") for place, each in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {name: parse(options[1], each, f"{where}.{name}".lstrip(".")) for name, each in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if kind in (int, str, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where or 'it'} is {value!r:.60}, not {_described(kind)}")


def _parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'it'} is {value!r:.60}, not an object")
    hints, fields = _hints(kind), dataclasses.fields(kind)
    needed = {each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING}
    if missing := needed - value.keys():
        raise ValueError(f"{where or 'it'} lacks {', '.join(sorted(missing))}")
    given = {name: each for name, each in value.items() if name in hints}  # a later benchkit may have written more
    return kind(**{name: parse(hints[name], each, f"{where}.{name}".lstrip(".")) for name, each in given.items()})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _described(kind: Any) -> str:
    if get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(kind, "a list or object")
