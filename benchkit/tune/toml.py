"""A protocol as a TOML file that `benchkit run --protocol` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchkit.protocol import PHASES, Protocol
from benchkit.settings import plain


def write_toml(protocol: Protocol, comments: tuple[str, ...] = ()) -> str:
    """Every field of a protocol, its name excepted, which is that of the file; `comments` come first."""
    values = plain(protocol)
    tables = {name: values.pop(name) for name in PHASES}
    tables |= {**values.pop("task_options"), **values.pop("head_options")}
    del values["name"]
    lines = [f"# {line}" for line in comments]
    lines += [f"{name} = {_value(value)}" for name, value in values.items()]
    for name, fields in tables.items():
        lines += ["", f"[{name}]", *(f"{field} = {_value(value)}" for field, value in fields.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, int | float):
        return repr(value)
    if value is None:  # TOML has no null; an optional field reads this as none
        return '"none"'
    assert not isinstance(value, Mapping)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
