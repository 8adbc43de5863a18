"""What a check says of a head, and how a plain function becomes a check."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchkit.head import HeadSpec

_LONGEST = 300  # characters of a stranger's error message


class Failed(AssertionError):
    """Raised by a check's function: the head breaks the contract, and how."""


class Skipped(Exception):
    """Raised by a check's function: it does not concern this head, and why."""


@dataclass(frozen=True)
class Verdict:
    """What one check says of one head.

    Attributes:
        check: the check's name.
        description: what the check asks for, one line.
        reason: how the head fails, or why the check was skipped; "" if all is well.
        raised: what the head's own code raised, on one line; "" if nothing.
    """

    check: str
    description: str
    status: Literal["ok", "failed", "skipped"]
    reason: str = ""
    raised: str = ""


@dataclass(frozen=True)
class Check:
    """One clause of the contract: `check(spec)` gives a verdict and raises nothing.

    Attributes:
        function: `function(spec)` returns where the head keeps the clause, and raises `Failed` or `Skipped` elsewhere.
            Anything else that the head's code raises is a failure too.
    """

    name: str
    description: str
    function: Callable[[HeadSpec], None]

    def __call__(self, spec: HeadSpec) -> Verdict:
        try:
            self.function(spec)
        except Failed as found:
            return Verdict(self.name, self.description, "failed", str(found), _raised(found))
        except Skipped as found:
            return Verdict(self.name, self.description, "skipped", str(found))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's head may raise anything
            return Verdict(self.name, self.description, "failed", one_line(error), one_line(error))
        return Verdict(self.name, self.description, "ok")


def check(function: Callable[[HeadSpec], None]) -> Check:
    """A check named like the function and described by the first line of its docstring."""
    lines = (inspect.getdoc(function) or "").splitlines()
    return Check(function.__name__, lines[0].rstrip("."), function)


def _raised(found: Failed) -> str:
    cause: BaseException = found
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return "" if isinstance(cause, Failed) else one_line(cause)


def one_line(error: BaseException) -> str:
    """`TypeError: what was wrong`, on one line, however long and broken the message."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
