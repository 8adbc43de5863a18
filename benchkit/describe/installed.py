"""`benchkit plugins` as text and as data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchkit.describe.columns import columns, paragraph
from benchkit.plugins import Plugin, Plugins


def as_data(found: Plugins) -> list[dict[str, Any]]:
    """One JSON-ready object a plugin, with its `state`."""
    return [{**dataclasses.asdict(plugin), "state": state(plugin)} for plugin in found.plugins]


def state(plugin: Plugin) -> str:
    return "broken" if plugin.error else "ok"


def render(found: Plugins) -> str:
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
