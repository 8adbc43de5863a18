"""The course of a pre-training as a table and as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchkit.mlm.evaluate import Score
from benchkit.store.atomic import write_atomic

_GREY = "#777777"


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A line for each look at the held-out texts; empty where there is no number yet."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    write_atomic(path, file.getvalue().encode(), durable=False)


def write_png(rows: Sequence[Mapping[str, Any]], unigram: Score, path: Path) -> None:
    """Loss above, guesses that were right below; dotted what frequencies alone reach.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    from benchkit.report.plot import COLOURS

    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [row["step"] for row in rows]
    known = [(row["step"], row["loss"]) for row in rows if math.isfinite(row["loss"])]
    above.plot(*zip(*known, strict=True), "--", color=COLOURS[0], label="training")
    above.plot(steps, [row["held_out_loss"] for row in rows], color=COLOURS[0], label="held out")
    above.axhline(unigram.loss, color=_GREY, linestyle="dotted", label="frequencies alone, held out")
    above.set_ylabel("loss of a masked piece (nats)")
    below.plot(steps, [100 * row["held_out_accuracy"] for row in rows], color=COLOURS[0])
    below.axhline(100 * unigram.accuracy, color=_GREY, linestyle="dotted")
    below.set_ylabel("guessed right (%)")
    below.set_xlabel("step")
    below.set_ylim(bottom=0)
    for axes in (above, below):
        axes.grid(axis="y", color="#E5E5E5", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    last = rows[-1]
    above.set_title(f"perplexity {last['held_out_perplexity']:,.1f} after {last['epoch']:.2g} epochs", fontsize=10)
    above.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
