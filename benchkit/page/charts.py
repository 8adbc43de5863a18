"""The numbers that the page's script draws, as one compact JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchkit.page.content import judged
from benchkit.page.markup import Markup
from benchkit.page.outcomes import Observed
from benchkit.page.rows import COLOURS
from benchkit.report.results import MEAN, Results
from benchkit.report.stats import spread
from benchkit.report.summary import curves_frame

if TYPE_CHECKING:
    import pandas as pd

    from benchkit.page.content import Content

POINTS = 2000
"""Examples in a scatter; of more, every so many-th of the sorted labels."""


def as_json(content: Content) -> Markup:
    """What `page.js` reads; no character of it can end the `<script>` it stands in."""
    results = content.results
    data = {
        "colours": COLOURS,
        "heads": results.heads,
        "phases": list(reversed(results.phases)),
        "tasks": [*results.metrics],
        "metrics": results.metrics,
        "curves": _curves(content),
        "controls": [
            {"name": each.name, "task": each.task, "value": _short(each.value), "loss": _short(each.loss)}
            for each in results.controls
            if each.split == "dev"
        ],
        "costs": [
            _cost(results, phase, task, index)
            for phase in results.phases
            for task in (MEAN, *results.metrics)
            for index in range(len(results.heads))
        ],
        "calibration": [_calibration(results, each) for each in content.observed.values()],
    }
    return Markup(_inert(json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)))


def _inert(text: str) -> str:
    """The same JSON without `<`, `>`, `&` and the two line ends that only JavaScript knows."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _short(value: float) -> float | None:
    """Five significant digits: more cannot be seen. None for what is no number."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _list(values: Iterable[float]) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _curves(content: Content) -> list[dict[str, Any]]:
    """Mean, lowest and highest seed of each phase, task, split and head, epoch by epoch. What failed or diverged is
    left out.
    """
    results = content.results
    spoilt = {(fault.head, fault.seed) for fault in results.faults if not fault.counts}
    frame = curves_frame([each for each in content.records if (each.head, each.seed) not in spoilt])
    frame = frame.replace([np.inf, -np.inf], np.nan)
    keys = ["phase", "task", "split", "head"]
    over = frame.groupby([*keys, "epoch"], sort=False)[["value", "loss"]].agg(["mean", "min", "max"])
    seeds = frame.groupby(keys, sort=False)["seed"].nunique().to_dict()
    return [
        {
            "phase": phase,
            "task": task,
            "split": split,
            "head": results.heads.index(head),
            "seeds": int(seeds[phase, task, split, head]),
            "epochs": [int(each) for each in group.index.get_level_values("epoch")],
            "value": _band(group, "value"),
            "loss": _band(group, "loss"),
        }
        for (phase, task, split, head), group in over.groupby(level=keys, sort=False)
        if task in results.metrics
    ]


def _band(over: pd.DataFrame, what: str) -> list[list[float | None]]:
    return [_list(over[what, each]) for each in ("mean", "min", "max")]


def _cost(results: Results, phase: str, task: str, index: int) -> dict[str, Any]:
    head = results.heads[index]
    over = spread(results.seeds(head, phase, task, judged(results, phase, task)).values())
    time = spread(results.seconds(head, phase).values())
    return {
        "phase": phase,
        "task": task,
        "head": index,
        "split": judged(results, phase, task),
        "score": _list((over.mean, over.low, over.high)),
        "seeds": _list(results.seeds(head, phase, task, judged(results, phase, task)).values()),
        "parameters": results.parameters.get(head),
        "seconds": _list((time.mean, time.mean - time.std, time.mean + time.std)),
    }


def _calibration(results: Results, observed: Observed) -> dict[str, Any]:
    task = observed.task
    rows = _sample(observed.labels) if not task.classes else []
    return {
        "task": task.name,
        "split": observed.split,
        "examples": len(observed.labels),
        "classes": len(task.classes),
        "range": [0, 1] if task.classes else [task.low, task.high],
        "labels": [_rounded(each) for each in observed.labels[rows]],
        "heads": [
            {
                "head": results.heads.index(head),
                "bins": [[_rounded(x / n), _rounded(y / n), _short(n / outcome.bins[:, 0].sum())]
                         for n, x, y in outcome.bins if n],
                "error": [_short(spread(outcome.errors).mean), _short(spread(outcome.errors).std)],
                "said": [_rounded(each) for each in outcome.said[rows]],
            }
            for head, outcome in observed.outcomes.items()
        ],
    }  # fmt: skip


def _rounded(value: float) -> float:
    return round(float(value), 3)


def _sample(labels: np.ndarray) -> Sequence[int]:
    """Rows of a scatter, spread evenly over the labels."""
    order = np.argsort(labels, kind="stable")
    step = max(1, math.ceil(len(order) / POINTS))
    return [int(each) for each in order[::step]]
