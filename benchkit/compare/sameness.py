"""Whether two runs may be compared: what differs between them, sorted by what a user may have meant."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from benchkit.errors import UserError
from benchkit.identity import Change, changes, parts_of, tell
from benchkit.record import Record

ACROSS = ("data", "protocol", "machine", "encoder")
"""Differences that must be meant; those of the head and of the code are what a comparison is for."""
_HARDWARE = ("processor", "device")

Pair = tuple[Record, Record]


def differences(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """What differs between the cells of A and those of B, a line each, by kind: one of `ACROSS`, `head` or `code`."""
    found: dict[str, list[str]] = {}
    for a, b in pairs:
        old, new = parts_of(a), parts_of(b)
        for change in changes(a.identity, b.identity):
            found.setdefault(_kind(change), []).append(tell(change, old, new))
        for name in _HARDWARE:
            was, now = (str(each.environment.get(name, "unknown")) for each in (a, b))
            if was != now:
                found.setdefault("machine", []).append(f"{name}: {was} → {now}")
    return {kind: list(dict.fromkeys(lines)) for kind, lines in found.items()}


def refuse(found: dict[str, list[str]], across: Collection[str]) -> None:
    """Stop at a difference that nobody said is meant.

    Raises:
        UserError: names the difference and the option.
    """
    for kind in ACROSS:
        lines = found.get(kind, [])
        if lines and kind not in across:
            more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
            raise UserError(
                f"the two runs differ in {kind} ({lines[0]}{more}): say --across {kind} if that is the difference meant"
            )


def _kind(change: Change) -> str:
    part, last = change.path[0], change.path[-1]
    if part == "execution":
        return "machine"
    if part == "tasks":
        return "code" if last == "source" else "protocol" if last in ("loss", "order") else "data"
    return {"data": "data", "protocol": "protocol", "encoder": "encoder", "engine": "code"}.get(
        part, "code" if last == "source" else "head"
    )
