"""One line of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        section: what it is listed under.
        state: `note` for what is missing but not needed; `broken` for what is needed.
        advice: what to do; "" where there is nothing to do.
    """

    section: str
    name: str
    value: str
    state: State = "ok"
    advice: str = ""
