"""Where the boxes of a figure go: rows from the encoder up, a column a task above what they share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchkit.describe.figure import SHARED, Box, Figure

TITLE, TEXT = 13, 11  # font sizes
LINE = 16  # from one line of text to the next
GAP_X, GAP_Y = 18, 30  # between boxes
PAD = 14  # inside a panel
CAPTION = LINE + 10  # room for a branch's title
_APART = 60  # at most, between branches
_ALIKE = 1.3  # columns become equally wide where that makes the whole no wider than by this
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
        panels: of each group: x, y, width, height.
    """

    slots: list[Slot]
    panels: dict[str, tuple[float, float, float, float]]
    width: float
    height: float


def lay_out(drawn: Figure) -> Layout:
    slots = _slots(drawn)
    columns = [box.group for box in drawn.boxes if box.kind == "output"]
    widths = _widths(drawn, slots, columns)
    total = max(sum(widths[name] for name in columns) + GAP_X * (len(columns) - 1), widths[""])
    lefts = _lefts([widths[name] for name in columns], total)
    middles = {"": total / 2, **{name: left + widths[name] / 2 for name, left in zip(columns, lefts, strict=True)}}
    for row in range(max(slot.row for slot in slots) + 1):
        for name, middle in middles.items():
            _spread([slot for slot in slots if (slot.row, slot.column) == (row, name)], middle)
    height = _stack(slots)
    panels = {}
    for name in drawn.titles:
        inside = [slot for slot in slots if slot.box and slot.box.group == name]
        top = min(slot.top for slot in inside) - (PAD if name == SHARED else CAPTION)
        left, width = (0.0, total) if name == SHARED else (middles[name] - widths[name] / 2, widths[name])
        panels[name] = (left, top, width, max(slot.bottom for slot in inside) + PAD - top)
    return Layout(slots, panels, total, height)


def _widths(drawn: Figure, slots: Sequence[Slot], columns: Sequence[str]) -> dict[str, float]:
    """Of each column's panel; "" is what is shared, whose title stands beside its highest row."""
    found = {name: max(_wide(slots, name), text_width(caption(drawn, name)[0], TEXT)) + 2 * PAD for name in columns}
    if max(found.values()) * len(found) < _ALIKE * sum(found.values()):
        found = dict.fromkeys(found, max(found.values()))
    title = max((text_width(line, TITLE) for line in caption(drawn, SHARED)), default=0.0)
    top = max((slot.row for slot in slots if slot.box and slot.box.group == SHARED), default=0)
    highest = _wide([slot for slot in slots if slot.row == top], "")
    return {**found, "": max(_wide(slots, "") + 2 * PAD, highest + 2 * (title + 2 * PAD))}


def caption(drawn: Figure, group: str) -> tuple[str, ...]:
    """The lines of a panel's title: the output says of which task a branch is."""
    name, count = drawn.titles.get(group, ("", ""))
    return (name, count) if group == SHARED else (f"branch: {count}",)


def _lefts(widths: Sequence[float], total: float) -> list[float]:
    """Where each column begins: centred, spare room between them as far as that looks well."""
    spare = total - sum(widths)
    gap = min(_APART, spare / (len(widths) - 1)) if len(widths) > 1 else 0.0
    lefts, x = [], (spare - gap * (len(widths) - 1)) / 2
    for width in widths:
        lefts.append(x)
        x += width + gap
    return lefts


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
            rows[box.id] = max(rows[box.id], min(_readers(drawn, box, rows)) - 1)
    last = max(rows.values())
    return {box.id: last if box.kind == "output" else rows[box.id] for box in drawn.boxes}


def _readers(drawn: Figure, box: Box, rows: dict[str, int]) -> Iterator[int]:
    yield from (rows[each.id] for each in drawn.boxes if box.id in each.inputs)
