"""A head's diagram, as Mermaid text or as an SVG file."""

from __future__ import annotations

from pathlib import Path

from benchkit.describe.figure import Figure, figure
from benchkit.describe.heads import Shown
from benchkit.describe.mermaid import mermaid
from benchkit.describe.svg import svg
from benchkit.errors import UserError


def as_mermaid(shown: Shown) -> str:
    return mermaid(_figure(shown))


def as_svg(shown: Shown) -> str:
    return svg(_figure(shown))


def write_svg(shown: Shown, path: Path) -> None:
    """Raises: UserError: the file cannot be written."""
    try:
        path.write_text(as_svg(shown), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _figure(shown: Shown) -> Figure:
    return figure(shown.structure, f"encoder {shown.encoder.name}", shown.about)
