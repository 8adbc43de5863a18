"""What there is to look at: plugins (here), heads, encoders, this machine; and tables for a terminal. No torch."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

from benchkit.core.plugins import Plugin, Plugins


def terminal_width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return max(60, get_terminal_size((100, 24)).columns)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """A table with a rule below its header, wrapped between words to fit the terminal where that is possible.

    Args:
        rows: a row with nothing but a first cell is a heading, which may be wider than its column. Cells are broken at
            spaces, and not at no-break spaces.
        right: names of the columns that are aligned right; these are not wrapped.
    """
    table = [header, *(row for row in rows if any(row[1:]))]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    words = [max(map(len, " ".join(cells).split(" "))) for cells in zip(*table, strict=True)]
    while sum(widths) + 2 * len(widths) - 2 > terminal_width():
        narrower = [
            [width - (at == place) for place, width in enumerate(widths)]
            for at, name in enumerate(header)
            if name not in right and widths[at] > words[at]
        ]
        if not narrower:
            break  # a long word, such as a path, is left whole
        widths = min(narrower, key=lambda each: (sum(len(_fitted(row, each)) for row in table), max(each)))
    lines = []
    for row in (header, *rows):
        for parts in _fitted(row, widths) if any(row[1:]) else [row]:
            aligned = [
                part.rjust(width) if name in right else part.ljust(width)
                for name, part, width in zip(header, parts, widths, strict=True)
            ]
            lines.append("  ".join(aligned).rstrip())
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]]).replace(NO_BREAK, " ")


NO_BREAK = "\u00a0"


def _fitted(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """The lines that a row takes."""
    return list(zip_longest(*map(_wrapped, row, widths), fillvalue=""))


@cache
def _wrapped(cell: str, width: int) -> list[str]:
    """The lines of a cell; after an indented number they hang below the text beside it."""
    numbered = re.match(r" +\d+ |", cell)
    indent = " " * (numbered.end() if numbered else 0)
    return textwrap.wrap(cell, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def paragraph(text: str, indent: str = "  ") -> str:
    """Wrapped to the terminal, with a hanging indent; long words, such as paths, are left whole."""
    return textwrap.fill(
        text, terminal_width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def plugins_as_data(found: Plugins) -> list[dict[str, Any]]:
    """One JSON-ready object a plugin, with its `state`."""
    return [{**dataclasses.asdict(plugin), "state": state(plugin)} for plugin in found.plugins]


def state(plugin: Plugin) -> str:
    return "broken" if plugin.error else "ok"


def render_plugins(found: Plugins) -> str:
    """A table, then what is wrong, then where each plugin's file is."""
    if not found.plugins:
        return "\n\n".join(["no plugin is loaded", *_left_out(found)])
    rows = [(each.name, _home(each), state(each), ", ".join(each.hooks), _offers(each)) for each in found.plugins]
    errors = [f"{each.name} ({_home(each)}): {each.error}" for each in found.broken]
    parts = [columns(("plugin", "distribution", "state", "hooks", "offers"), rows)]
    parts += ["Broken\n" + "\n".join(f"  {paragraph(line, '    ')}" for line in errors)] if errors else []
    parts += ["Files\n" + _files(found), *_left_out(found)]
    return "\n\n".join(parts)


def short_path(path: str) -> str:
    """Relative to where the user is, or to their home, where that is shorter."""
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        if Path(path).is_relative_to(base) and base != Path(base.root):
            return prefix + str(Path(path).relative_to(base))
    return path


def _home(plugin: Plugin) -> str:
    return plugin.distribution or "a file"


def _offers(plugin: Plugin) -> str:
    kinds = {"head": plugin.heads, "task": plugin.tasks, "encoder": plugin.encoders}
    return "; ".join(
        f"{kind if len(names) == 1 else kind + 's'} {', '.join(names)}" for kind, names in kinds.items() if names
    )


def _files(found: Plugins) -> str:
    """A line each, never wrapped, so that a path can be copied."""
    width = max(len(plugin.name) for plugin in found.plugins)
    return "\n".join(f"  {each.name:<{width}}  {short_path(each.path) or 'none found'}" for each in found.plugins)


def _left_out(found: Plugins) -> list[str]:
    names = ", ".join(found.left_out)
    return [paragraph(f"BENCHKIT_PLUGINS leaves out: {names}")] if names else []
