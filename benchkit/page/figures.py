"""Every plot of the page as PNG and SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchkit.errors import UserError
from benchkit.store.atomic import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from benchkit.page.content import Content


def write_figures(content: Content, folder: Path) -> list[Path]:
    """Write each plot as `NAME.png` and `NAME.svg`; the paths, in the page's order.

    Raises:
        UserError: matplotlib is not installed, or a file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise UserError("figures take matplotlib: pip install 'benchkit[plots]'")
    from matplotlib import rc_context

    paths = []
    # Names are text, not formulas, though they hold a `$`; SVG keeps words as words, and is the same each time.
    with rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "benchkit"}):
        for name, figure in _figures(content):
            for kind in ("png", "svg"):
                path = folder / f"{_file_name(name)}.{kind}"
                write_atomic(path, _render(figure, kind), durable=False)
                paths.append(path)
    return paths


def _figures(content: Content) -> Iterator[tuple[str, Figure]]:
    from benchkit.page import drawings
    from benchkit.report.plot import draw_curves

    results = content.results
    for phase in results.phases:
        yield f"scores-{phase or 'none'}", drawings.scores(results, phase)
    curves = draw_curves(content.records, controls=results.controls, tasks=content.stored.tasks, phases=results.phases)
    if curves is not None:
        yield "curves", curves
    for phase in results.phases:
        yield f"costs-{phase or 'none'}", drawings.costs(results, phase)
    for task, observed in content.observed.items():
        if observed.task.classes:
            yield f"confusion-{task}", drawings.confusion(observed)
        yield f"calibration-{task}", drawings.calibration(observed)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _render(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
    return buffer.getvalue()
