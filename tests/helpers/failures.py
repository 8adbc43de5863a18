"""Failures of made-up records."""

from __future__ import annotations

from benchkit.core.record import Failure


def failure(message: str) -> Failure | None:
    """With a message; None without one."""
    return Failure("unknown", "", message) if message else None
