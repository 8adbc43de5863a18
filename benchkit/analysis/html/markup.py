"""HTML from Python: escaped by default."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from benchkit.analysis.statistics import Spread


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


NOTHING = "–"


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457`, `−0.012`, `+0.012` where signed; a dash for none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def plus_minus(over: Spread, *, signed: bool = False, digits: int = 3) -> str:
    """`0.457 ± 0.012`; one seed has no ±."""
    mean = number(over.mean, signed=signed, digits=digits)
    return f"{mean} ± {over.std:.{digits}f}" if over.n > 1 else mean


def interval(low: float, high: float, *, signed: bool = False) -> str:
    """`0.441 to 0.473`: words, as a dash between signed numbers cannot be read."""
    return f"{number(low, signed=signed)} to {number(high, signed=signed)}" if math.isfinite(low) else NOTHING


def ranges(values: Iterable[int]) -> str:
    """`0–9, 12`."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in parts)


def p_value(p: float) -> str:
    """`0.032`, `< 0.001`."""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


HUES = 7
"""Distinct colours of heads; after them the shapes of marks change."""


@dataclass(frozen=True)
class Column:
    """A header; how its cells are sorted ("" is not at all) and aligned (numbers to the right in any case)."""

    title: str
    sort: Literal["", "text", "number"] = ""
    hint: str = ""
    right: bool = False


def text(content: str, **attributes: str | float | bool | None) -> Markup:
    return tag("td", content, **attributes)


def numeric(content: str, value: float | None = None) -> Markup:
    """A right-aligned cell, sorted by `value`."""
    known = value is not None and math.isfinite(value)
    return tag("td", content, class_="n", data_value=f"{value:.9g}" if known else "")


def head_cell(name: str, index: int | None, note: str = "") -> Markup:
    """A row's header: the head with its mark, and a link to what went wrong with it."""
    key = "" if index is None else swatch(index)
    link = tag("a", "!", href="#faults", title=note, class_="fault") if note else ""
    return tag("th", key, tag("span", name, class_="name"), link, scope="row", data_value=name)


def swatch(index: int) -> Markup:
    """The mark that a head has in every table and chart."""
    return tag("i", class_=f"key s{index % HUES} m{index // HUES % 3}", aria_hidden="true")


def table(
    caption: str, columns: Sequence[Column], *bodies: Sequence[Markup], foot: str = "", class_: str = ""
) -> Markup:
    """A table that scrolls in its own frame where the page is narrower; rows of the first body can be sorted."""
    header = tag("tr", *(_header(column) for column in columns))
    parts = [tag("caption", caption), tag("thead", header), *(tag("tbody", *rows) for rows in bodies if rows)]
    sortable = any(column.sort for column in columns)
    classes = " ".join(filter(None, (class_, "sortable" if sortable else "")))
    whole = tag("table", *parts, tag("tfoot", foot) if foot else "", class_=classes or None)
    return tag("div", whole, class_="frame", tabindex="0", role="region", aria_label=caption)


def _header(column: Column) -> Markup:
    classes = "n" if column.right or column.sort == "number" else None
    return tag(
        "th", column.title, scope="col", class_=classes, data_sort=column.sort or None, title=column.hint or None
    )


def facts(pairs: Sequence[tuple[str, str]], class_: str = "facts") -> Markup:
    """Names and values, side by side."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_=class_)


def section(id_: str, title: str, *parts: str, lead: str = "") -> Markup:
    """A part of the page that its contents link to."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else "", *parts, id=id_)


def fold(title: str, *parts: str) -> Markup:
    """What only some readers want; open on paper."""
    return tag("details", tag("summary", title), *parts)


def lines(items: Sequence[str], class_: str = "notes") -> Markup:
    return tag("ul", *(tag("li", each) for each in items), class_=class_) if items else join([])
