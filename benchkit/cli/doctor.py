"""`benchkit doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from benchkit.doctor.finding import Finding

_MARKS = {"ok": ("✓", "green"), "note": ("–", "yellow"), "broken": ("✗", "red")}


@click.command(short_help="Say what this machine has, and what is missing for what.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs and bug reports.")
def doctor(as_json: bool) -> None:
    """Look at versions, devices, plugins, data, weights, optional packages and the cache.

    Exit code 0: everything needed works (what is marked – is optional); 1: something that is needed is broken. Works
    where torch does not.
    """
    from benchkit.doctor.examine import examine

    found = examine()
    if as_json:
        import dataclasses
        import json

        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2, ensure_ascii=False))
    else:
        click.echo(_rendered(found))
    if any(each.state == "broken" for each in found):
        raise SystemExit(1)


def _rendered(found: list[Finding]) -> str:
    width = max(len(each.name) for each in found)
    parts = []
    for section in dict.fromkeys(each.section for each in found):
        lines = [_line(each, width) for each in found if each.section == section]
        parts.append("\n".join([click.style(section, bold=True), *lines]))
    broken = [each for each in found if each.state == "broken"]
    verdict = [f"  {each.section} {each.name}: {each.advice or each.value}" for each in broken]
    parts.append("\n".join(["What to repair", *verdict]) if broken else "Everything that is needed works.")
    return "\n\n".join(parts)


def _line(finding: Finding, width: int) -> str:
    """A mark, the name, what was found; then what to do about it."""
    from textwrap import fill

    mark, colour = _MARKS[finding.state]
    advice = f" → {finding.advice}" if finding.advice else ""
    indent = " " * (width + 6)
    text = fill(finding.value + advice, 100, initial_indent=indent, subsequent_indent=indent,
                break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return f"  {click.style(mark, fg=colour)} {finding.name:<{width}}  {text.lstrip()}"
