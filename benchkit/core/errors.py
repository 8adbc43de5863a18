"""What a user can get wrong, as one line: what, where, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 1000  # characters of a message
_LONGEST_CAUSE = 300  # of what a stranger's code raised


class UserError(Exception):
    """A mistake in what the user asked for; the command line prints it and exits with code 2.

    Its text is one line, whatever was quoted in it: line ends become spaces, and the middle of a long text is cut.
    """

    def __init__(self, message: object) -> None:
        line = " ".join(str(message).splitlines())
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST * 3 // 4]} … {line[-_LONGEST // 4 :]}"
        super().__init__(line)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: lists what does, suggests the nearest."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names) or 'none'})")


def one_line(error: BaseException) -> str:
    """`TypeError: what was wrong`, on one line, however long and broken the message."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST_CAUSE else f"{text[:_LONGEST_CAUSE]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
