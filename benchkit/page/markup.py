"""HTML that is safe by its type: text is escaped where it meets `tag`, and only there."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """HTML as it stands. Every other string is text from somebody: a head's name, a sentence, a path."""

    __slots__ = ()


_VOID = {"link", "meta"}


def tag(name: str, *children: str, **attributes: str | float | bool | None) -> Markup:
    """`<name …>children</name>`; children that are no `Markup` are escaped.

    Args:
        attributes: `class_` is `class`, `data_value` is `data-value`; None and False leave one out, True
            writes its name alone.
    """
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in _VOID:
        return Markup(opened)
    return Markup(f"{opened}{join(children)}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Markup:
    """One piece of HTML of many; what is no `Markup` is escaped."""
    return Markup(_safe(between).join(_safe(part) for part in parts))


def _safe(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(text, quote=False)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
