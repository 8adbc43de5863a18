"""A figure as a Mermaid flowchart."""

from __future__ import annotations

from benchkit.describe.figure import Box, Figure

# Fill, border; the text is dark on all of them, so that they can be read on a dark page too.
COLOURS = {
    "encoder": ("#e4e7eb", "#6b7682"),
    "feature": ("#e4e7eb", "#6b7682"),
    "trunk": ("#d4e5f7", "#2f6fae"),
    "branch": ("#fde6c8", "#b8700f"),
    "output": ("#d3eedd", "#1f8554"),
}
INK = "#16191d"


def mermaid(drawn: Figure) -> str:
    """The encoder below, a column a task above it."""
    lines = ["flowchart BT", *(f"  {_node(box)}" for box in drawn.boxes if not box.group)]
    for number, (group, (name, count)) in enumerate(drawn.titles.items()):
        lines += [f'  subgraph group{number}["{_text(name)}<br/>{_text(count)}"]', "    direction BT"]
        lines += [f"    {_node(box)}" for box in drawn.boxes if box.group == group]
        lines += ["  end"]
    lines += [f"  {source} --> {box.id}" for box in drawn.boxes for source in box.inputs]
    lines += [f"  classDef {kind} fill:{fill},stroke:{border},color:{INK}" for kind, (fill, border) in COLOURS.items()]
    return "\n".join(lines)


def _node(box: Box) -> str:
    return f'{box.id}["{"<br/>".join(map(_text, box.lines))}"]:::{box.kind}'


def _text(line: str) -> str:
    return line.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
