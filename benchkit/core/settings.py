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

_hints = functools.cache(typing.get_type_hints)
_TRUTH = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


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
        changes[name] = _read(value, hints[name], f"{where}.{name}".lstrip("."))
    return dataclasses.replace(settings, **changes)  # type: ignore[type-var]


def _read(value: Any, kind: Any, name: str) -> Any:
    """`value` as `kind`, which is what `parse` takes; text is read first, and a single value is a tuple of one.

    Raises:
        UserError: it is something else.
    """
    try:
        return parse(kind, _loosely(value, kind), name)
    except ValueError as error:
        raise UserError(str(error)) from None


def _loosely(value: Any, kind: Any) -> Any:
    """Text as what it stands for, and whole floats as integers; what cannot be read stays as it is."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        is_none = value is None or (isinstance(value, str) and value.lower() in ("", "none"))
        return None if is_none else _loosely(value, options[0])
    if origin is tuple:
        parts = value.strip("[]()").split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, list | tuple) else [parts]
        return [_loosely(each.strip() if isinstance(each, str) else each, options[0]) for each in parts if each != ""]
    if origin is typing.Literal:
        return next((each for each in options if isinstance(value, str) and str(each) == value), value)
    if kind is bool:
        return _TRUTH.get(str(value).lower(), value)
    if kind in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = kind(value)
            if math.isfinite(number) and (kind is float or isinstance(value, str) or number == value):
                return number
        return str(value)  # which is refused as a number
    return value


def plain(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready data, tuples as lists."""
    return {name: _with_lists(value) for name, value in dataclasses.asdict(settings).items()}


def _with_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_lists(each) for key, each in value.items()}
    return [_with_lists(each) for each in value] if isinstance(value, list | tuple) else value


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
    if origin is typing.Literal:
        wanted = f"is one of {', '.join(map(str, options))}"
    else:
        wanted = f"takes {_KINDS.get(kind, 'a list or object')}"
    raise ValueError(f"{where or 'it'} {wanted}, not {value!r:.60}")


def _parse_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where or 'it'} takes an object, not {value!r:.60}")
    hints, fields = _hints(kind), dataclasses.fields(kind)
    needed = {each.name for each in fields if each.default is each.default_factory is dataclasses.MISSING}
    if missing := needed - value.keys():
        raise ValueError(f"{where or 'it'} lacks {', '.join(sorted(missing))}")
    given = {name: each for name, each in value.items() if name in hints}  # a later benchkit may have written more
    return kind(**{name: parse(hints[name], each, f"{where}.{name}".lstrip(".")) for name, each in given.items()})
