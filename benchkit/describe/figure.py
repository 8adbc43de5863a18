"""What a diagram of a head shows: boxes, arrows and groups, before anything is drawn."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

from benchkit.describe.structure import Branch, Layer, Structure
from benchkit.task import TaskShape

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
    boxes, home = _boxes(_used(nodes, ends))
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


def _nodes(found: Structure) -> tuple[_Nodes, dict[str, list[_Node]]]:
    """All layers with the nodes they read, those that branches share once; and the ends of each branch."""
    widest = max(found.branches, key=lambda branch: branch.task.segments)  # its axes are named best
    nodes: _Nodes = {}
    ends = {}
    for group, branch in ((SHARED, widest), *((each.task.name, each) for each in found.branches)):
        start, stop = (0, found.shared) if group == SHARED else (found.shared, len(branch.layers))
        for number, layer in list(enumerate(branch.layers))[start:stop]:
            nodes[group, number] = (layer, tuple(_place(found, branch, group, i) for i in layer.inputs))
    for branch in found.branches:
        ends[branch.task.name] = [_place(found, branch, branch.task.name, i) for i in branch.ends]
    return nodes, ends


def _place(found: Structure, branch: Branch, group: str, number: int) -> _Node:
    return (SHARED if number < found.shared else group, number)


def _used(nodes: _Nodes, ends: dict[str, list[_Node]]) -> _Nodes:
    """Only what leads to an output."""
    wanted = {node for each in ends.values() for node in each}
    for node, (_, inputs) in reversed(nodes.items()):
        if node in wanted:
            wanted.update(inputs)
    return {node: value for node, value in nodes.items() if node in wanted}


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
