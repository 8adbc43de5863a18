"""Tables of the page: a header, bodies of rows, and cells that know what they sort by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchkit.page.markup import Markup, join, tag

COLOURS = 7
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
    return tag("i", class_=f"key s{index % COLOURS} m{index // COLOURS % 3}", aria_hidden="true")


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
