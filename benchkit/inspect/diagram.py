"""A head as a diagram: SVG or Mermaid."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchkit.core.task import TaskShape
from benchkit.inspect.structure import Layer, Structure

SHARED = "*"  # no task is called so
_Node = tuple[str, int]  # a group, and the number of a layer in its branches
_Nodes = dict[_Node, tuple[Layer, tuple[_Node, ...]]]
_WIDE = 30  # letters of a line in a box


@dataclass(frozen=True)
class Box:
    """One or several layers, drawn as one.

    Attributes:
        kind: `encoder`, `feature`, `trunk`, `branch` or `output`.
        title: what it is; `more`: what else is done to its result.
        group: `SHARED`, or the task it belongs to; "" for encoder and features.
        inputs: ids of the boxes that an arrow comes from.
    """

    id: str
    kind: str
    title: str
    more: tuple[str, ...]
    shape: str
    group: str
    inputs: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What is written in it."""
        return (self.title, *textwrap.wrap(" · ".join(self.more), _WIDE), *([self.shape] if self.shape else []))


@dataclass(frozen=True)
class Figure:
    """Boxes from the encoder to the outputs, each after its inputs.

    Attributes:
        titles: of each group: its name, and how many parameters it has.
    """

    name: str
    boxes: tuple[Box, ...]
    titles: dict[str, tuple[str, str]]


def figure(found: Structure, encoder: str, about: str) -> Figure:
    """The figure of a head on an encoder of this name, about which there is something to add."""
    nodes, ends = _nodes(found)
    boxes, home = _boxes(nodes)
    boxes.insert(0, Box("encoder", "encoder", encoder, (about,), "", "", ()))
    for number, branch in enumerate(found.branches):
        task = branch.task
        inputs = tuple(dict.fromkeys(home[node] for node in ends[task.name]))
        shape = f"(batch, {task.out})"
        boxes.append(Box(f"output{number}", "output", task.name, (meaning(task),), shape, task.name, inputs))
    titles = {SHARED: ("shared by all tasks" if len(found.branches) > 1 else "trunk", _count(found.common))}
    titles |= {each.task.name: (f"{each.task.name} branch", _count(each.parameters)) for each in found.branches}
    groups = {box.group for box in boxes}
    return Figure(found.head, tuple(boxes), {name: title for name, title in titles.items() if name in groups})


def meaning(task: TaskShape) -> str:
    return f"{task.classes} classes" if task.classes else f"score {task.low:g} to {task.high:g}"


def label(layer: Layer) -> str:
    """What a layer is; a function also by the parameters that it uses."""
    if layer.parameters and layer.is_function:
        return f"{layer.kind} {'with' if layer.inputs else 'of'} {layer.path}"
    return f"{layer.kind} {layer.detail}".strip()


def axes(layer: Layer) -> str:
    """The shape of its result, as `(batch, segment, hidden)`."""
    return f"({', '.join(layer.shape)}{',' if len(layer.shape) == 1 else ''})"


def _count(parameters: int) -> str:
    return f"{parameters:,} parameters" if parameters else "no parameters"


def _nodes(found: Structure) -> tuple[_Nodes, dict[str, tuple[_Node, ...]]]:
    """The layers that lead to an output with what they read, those that branches share once; each branch's ends."""

    def place(group: str, number: int) -> _Node:
        return (SHARED if number < found.shared else group, number)

    nodes: _Nodes = {}
    shared = found.widest.layers[: found.shared]
    for group, layers in ((SHARED, shared), *((each.task.name, each.layers) for each in found.branches)):
        for number, layer in enumerate(layers):
            nodes.setdefault(place(group, number), (layer, tuple(place(group, i) for i in layer.inputs)))
    ends = {each.task.name: tuple(place(each.task.name, i) for i in each.ends) for each in found.branches}
    wanted = {node for each in ends.values() for node in each}
    for node, (_, inputs) in reversed(nodes.items()):
        if node in wanted:
            wanted.update(inputs)
    return {node: value for node, value in nodes.items() if node in wanted}, ends


def _boxes(nodes: _Nodes) -> tuple[list[Box], dict[_Node, str]]:
    """Boxes, and which box each layer went into. What keeps a shape joins the box whose result it alone takes."""
    readers = {node: sum(node in inputs for _, inputs in nodes.values()) for node in nodes}
    boxes: dict[str, Box] = {}
    home: dict[_Node, str] = {}
    for node, (layer, inputs) in nodes.items():
        group = node[0]
        last = boxes[home[inputs[0]]] if len(inputs) == 1 and readers[inputs[0]] == 1 else None
        if last and _joins(layer) and last.group == group and last.kind != "feature":
            boxes[last.id] = replace(last, more=(*last.more, label(layer)), shape=axes(layer))
            home[node] = last.id
            continue
        kind = "feature" if layer.is_feature else "trunk" if group == SHARED or layer.trunk else "branch"
        sources = ("encoder",) if layer.is_feature else tuple(dict.fromkeys(home[each] for each in inputs))
        place = "" if layer.is_feature else group
        box = Box(f"box{len(boxes)}", kind, label(layer), (), axes(layer), place, sources)
        boxes[box.id], home[node] = box, box.id
    return list(boxes.values()), home


def _joins(layer: Layer) -> bool:
    """Activations, dropout, norms."""
    return layer.keeps_shape and (not layer.parameters or "Norm" in layer.kind)


TITLE, TEXT = 13, 11  # font sizes
LINE = 16  # from one line of text to the next
GAP_X, GAP_Y = 18, 30  # between boxes
PAD = 14  # inside a panel
CAPTION = LINE + 10  # room for a branch's title
_LANE = 10  # width of an arrow that passes a row
_WIDTHS = {**dict.fromkeys("iljtfrI.,:;|'()[] ·", 0.4), **dict.fromkeys("mwMW→%", 0.95)}


def text_width(text: str, size: float) -> float:
    """An upper estimate that holds for the wider sans-serif fonts."""
    return size * sum(_WIDTHS.get(each, 0.72 if each.isupper() else 0.63) for each in text)


@dataclass
class Slot:
    """A place in a row: of a box, or of an arrow on its way to a higher row."""

    box: Box | None
    row: int
    column: str
    below: list[Slot] = field(default_factory=list)
    x: float = 0.0  # the middle
    bottom: float = 0.0
    ceiling: float = 0.0  # the top of the highest slot of its row

    @property
    def width(self) -> float:
        if self.box is None:
            return _LANE
        title, *others = self.box.lines
        return max(110, text_width(title, TITLE), *(text_width(line, TEXT) for line in others)) + 20

    @property
    def height(self) -> float:
        return LINE * len(self.box.lines) + 12 if self.box else 0

    @property
    def top(self) -> float:
        return self.bottom - self.height if self.box else self.ceiling


@dataclass(frozen=True)
class Layout:
    """Slots with their places; y grows downwards, as in SVG.

    Attributes:
        panels: of each group: x, y, width, height, whether it is what tasks share, the lines of its title.
    """

    slots: list[Slot]
    panels: list[tuple[float, float, float, float, bool, tuple[str, ...]]]
    width: float
    height: float


def lay_out(drawn: Figure) -> Layout:
    slots = _slots(drawn)
    columns = [box.group for box in drawn.boxes if box.kind == "output"]
    widths = _widths(drawn, slots, columns)
    branches = sum(widths[name] for name in columns) + GAP_X * (len(columns) - 1)
    total = max(branches, widths[""])
    middles, x = {"": total / 2}, (total - branches) / 2
    for name in columns:
        middles[name] = x + widths[name] / 2
        x += widths[name] + GAP_X
    for row in range(max(slot.row for slot in slots) + 1):
        for name, middle in middles.items():
            _spread([slot for slot in slots if (slot.row, slot.column) == (row, name)], middle)
    height = _stack(slots)
    panels = []
    for name in drawn.titles:
        inside = [slot for slot in slots if slot.box and slot.box.group == name]
        top = min(slot.top for slot in inside) - (PAD if name == SHARED else CAPTION)
        left, width = (0.0, total) if name == SHARED else (middles[name] - widths[name] / 2, widths[name])
        height_inside = max(slot.bottom for slot in inside) + PAD - top
        panels.append((left, top, width, height_inside, name == SHARED, caption(drawn, name)))
    return Layout(slots, panels, total, height)


def _widths(drawn: Figure, slots: Sequence[Slot], columns: Sequence[str]) -> dict[str, float]:
    """Of each column's panel; "" is what is shared, whose title stands beside its highest row."""
    found = {name: max(_wide(slots, name), text_width(caption(drawn, name)[0], TEXT)) + 2 * PAD for name in columns}
    title = max((text_width(line, TITLE) for line in caption(drawn, SHARED)), default=0.0)
    top = max((slot.row for slot in slots if slot.box and slot.box.group == SHARED), default=0)
    highest = _wide([slot for slot in slots if slot.row == top], "")
    return {**found, "": max(_wide(slots, "") + 2 * PAD, highest + 2 * (title + 2 * PAD))}


def caption(drawn: Figure, group: str) -> tuple[str, ...]:
    """The lines of a panel's title: the output says of which task a branch is."""
    name, count = drawn.titles.get(group, ("", ""))
    return (name, count) if group == SHARED else (f"branch: {count}",)


def _wide(slots: Sequence[Slot], column: str) -> float:
    rows: dict[int, list[float]] = {}
    for slot in slots:
        if slot.column == column:
            rows.setdefault(slot.row, []).append(slot.width)
    return max((sum(row) + GAP_X * (len(row) - 1) for row in rows.values()), default=0.0)


def _spread(row: list[Slot], middle: float) -> None:
    """Side by side about the middle, in the order of what is below them."""
    row.sort(key=lambda slot: sum(each.x for each in slot.below) / len(slot.below) if slot.below else 0.0)
    x = middle - (sum(slot.width for slot in row) + GAP_X * (len(row) - 1)) / 2
    for slot in row:
        slot.x = x + slot.width / 2
        x += slot.width + GAP_X


def _stack(slots: Sequence[Slot]) -> float:
    """Set where each row is; returns the height of the whole."""
    rows = range(max(slot.row for slot in slots) + 1)
    heights = [max(slot.height for slot in slots if slot.row == row) for row in rows]
    borders = [row for row in rows[1:] if len({s.column == "" for s in slots if s.row in (row - 1, row)}) > 1]
    gaps = [GAP_Y + (2 * PAD if row in borders else PAD if row == 2 else 0) if row else 0 for row in rows]
    height = sum(heights) + sum(gaps) + CAPTION
    y = height
    for row in rows:
        y -= gaps[row]
        for slot in slots:
            if slot.row == row:
                slot.bottom, slot.ceiling = y, y - heights[row]
        y -= heights[row]
    return height


def _slots(drawn: Figure) -> list[Slot]:
    """A slot a box, and a slot in every row that an arrow passes on its way."""
    rows = _rows(drawn)
    top_shared = max(rows[box.id] for box in drawn.boxes if box.group in ("", SHARED))
    slots = {box.id: Slot(box, rows[box.id], "" if box.group == SHARED else box.group) for box in drawn.boxes}
    lanes: dict[tuple[str, str, int], Slot] = {}
    for box in drawn.boxes:
        for source in box.inputs:
            last = slots[source]
            for row in range(rows[source] + 1, rows[box.id]):
                column = "" if row <= top_shared else slots[box.id].column
                lane = lanes.setdefault((source, column, row), Slot(None, row, column, [last]))
                last = lane
            slots[box.id].below.append(last)
    return [*slots.values(), *lanes.values()]


def _rows(drawn: Figure) -> dict[str, int]:
    """Encoder and features first, what is shared above them, then the branches, all outputs in the last row."""
    rows: dict[str, int] = {}
    floor = 0
    for box in drawn.boxes:
        if box.group not in ("", SHARED):
            floor = floor or max(rows.values())
        rows[box.id] = 1 + max((rows[each] for each in box.inputs), default=1 if box.kind != "encoder" else -1)
        rows[box.id] = max(rows[box.id], floor + 1 if floor else 0)
    for box in drawn.boxes:  # what reads no features, such as a learned weight, goes below the first that needs it
        if not box.inputs and box.kind != "encoder":
            readers = (rows[each.id] for each in drawn.boxes if box.id in each.inputs)
            rows[box.id] = max(rows[box.id], min(readers) - 1)
    last = max(rows.values())
    return {box.id: last if box.kind == "output" else rows[box.id] for box in drawn.boxes}


_MARGIN = 12
_NEAR = 6  # no bend for less
_STAGGER = 6


def mermaid(drawn: Figure) -> str:
    """The encoder below, a column a task above it."""
    return render_template("head.mmd.jinja", figure=drawn)


def svg(drawn: Figure) -> str:
    """The encoder below, what tasks share above it, then a column a task, its output on top."""
    layout = lay_out(drawn)
    drawing = render_template(
        "head.svg.jinja",
        figure=drawn,
        layout=layout,
        arrows=[path for slot in layout.slots for path in _arrows(slot)],
        width=ceil(layout.width) + 2 * _MARGIN,
        height=ceil(layout.height) + 2 * _MARGIN,
        title=TITLE,
        text=TEXT,
        line=LINE,
        pad=PAD,
        margin=_MARGIN,
    )
    return drawing + "\n"


def render_template(template: str, **values: Any) -> str:
    """One of the templates beside this file, filled in."""
    environment = Environment(loader=PackageLoader("benchkit.inspect"), undefined=StrictUndefined)
    environment.filters |= {"px": "{:.1f}".format, "number": "{:,}".format, "millions": millions, "quoted": _quoted}
    return environment.get_template(template).render(values)


def millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M"


def _quoted(line: str) -> str:
    """As Mermaid wants it."""
    return line.replace("&", "#amp;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


def _arrows(slot: Slot) -> Iterator[str]:
    """The paths of the arrows into a box, next to each other where there are several."""
    sources = sorted(slot.below, key=lambda each: each.x) if slot.box else []
    for number, source in enumerate(sources):
        x = slot.x + (number - (len(sources) - 1) / 2) * min(24, slot.width / (len(sources) + 1))
        x = source.x if abs(x - source.x) < _NEAR else x
        # The nearer a source on one side, the lower its turn, so that arrows neither cross nor lie on each other.
        side = [each for each in sources if (each.x > slot.x) == (source.x > slot.x)]
        nearer = sum(abs(each.x - slot.x) < abs(source.x - slot.x) for each in side)
        yield _line(source, x, slot.bottom, ((len(side) - 1) / 2 - nearer) * _STAGGER)


def _line(source: Slot, x: float, y: float, lower: float) -> str:
    """From a box up to (x, y), through the lanes that lead there."""
    path = f" V{y:.1f}"
    while True:
        path = f" V{(source.ceiling + y) / 2 + lower:.1f} H{x:.1f}" + path
        if source.box:
            return f"M{source.x:.1f} {source.top:.1f}" + path
        path = f" V{source.bottom:.1f}" + path
        source, x, y, lower = source.below[0], source.x, source.bottom, 0.0
