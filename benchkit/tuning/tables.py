"""What a search prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchkit.analysis.tables import Block, Row, Style, table
from benchkit.tuning.final import Final
from benchkit.tuning.search import Found
from benchkit.tuning.space import Space
from benchkit.tuning.trials import Trial

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class BestOfK:
    """The best of `k` trials: its expected value and standard deviation."""

    k: int
    mean: float
    std: float


def best_of_k(values: Sequence[float]) -> list[BestOfK]:
    """Expected maximum of k draws, k = 1 … n, from the n values that a search found.

    Exact for draws with replacement (Dodge et al. 2019, "Show Your Work", equations 3 to 6): with F the share of values
    up to v, the maximum of k draws is at most v with probability F(v)^k. It takes trials as exchangeable, which those
    of a random search are; of a search that learns, later trials are better than early ones, and the curve says what
    trials of that search are worth, not how fast it finds them.
    """
    found, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    share = np.cumsum(counts) / max(1, len(values))
    return [_moments(k, found, share) for k in range(1, len(values) + 1)]


def _moments(k: int, values: np.ndarray, share: np.ndarray) -> BestOfK:
    mass = np.diff(share**k, prepend=0.0)  # probability that the maximum is this value
    mean = float((mass * values).sum())
    return BestOfK(k, mean, math.sqrt(max(0.0, float((mass * (values - mean) ** 2).sum()))))


def space_table(head: str, space: Space, style: Style = "terminal") -> str:
    rows = [Row((each.name, str(each), _show(each.default))) for each in space.dimensions]
    return table([Block((head, "searched", "default"), rows, ("left", "left", "left"))], style)


def best_table(found: Found, style: Style = "terminal") -> str:
    """The best config beside the default, field by field; fields that are not the same are first."""
    best = found.best
    if best is None:
        return "no trial finished"
    space = found.about.job.space
    start = next((trial for trial in found.trials if trial.finished and _is_default(trial, space)), None)
    rows = [Row((name, _show(value), _show(best.params.get(name)))) for name, value in space.default().items()]
    solved = found.about.job.widths[:1] if found.about.job.size else ()
    rows += [Row((f"{found.head}.{name}", "solved", _show(best.config.get(name)))) for name in solved]
    value = f"{start.values[0]:.4f}" if start and start.values else "–"
    rows.append(
        Row(("parameters", f"{start.parameters:,}" if start and start.parameters else "–", f"{best.parameters:,}"))
    )
    rows.append(Row((found.about.job.objective.quality, value, f"{best.values[0]:.4f}")))
    header = (found.about.job.study, "default (trial 0)", f"best (trial {best.number})")
    return table([Block(header, rows, ("left", "right", "right"))], style)


def final_table(final: Final, style: Style = "terminal") -> str:
    """Default and best with fresh seeds: means, difference, interval and p."""
    if not final.differences:
        return "no comparison: " + "; ".join(final.faults())
    rows = [
        Row(
            (
                f"{name} · {final.metrics[name]}" if name in final.metrics else "mean of tasks",
                f"{each.a:.4f}",
                f"{each.b:.4f}",
                _signed(each.value),
                f"{_signed(each.low)} to {_signed(each.high)}",
                f"{each.p:.3f}",
            )
        )
        for name, each in final.differences.items()
    ]
    header = (f"{final.head} · {final.split}", "default", "tuned", "difference", "95 % interval", "p")
    return table([Block(header, rows, ("left", "right", "right", "right", "right", "right"))], style)


def final_note(final: Final) -> list[str]:
    seeds = ", ".join(map(str, final.seeds))
    lines = [f"Fresh seeds {seeds}, trained in fresh processes; paired by seed and example."]
    if final.split == "dev":
        lines.append("No task has a labelled test: this is dev, which chose the tuned config and so flatters it.")
    if len(final.seeds) < 5 and final.differences:
        lines.append("With few seeds the interval is wide: benchkit plan says how many a difference takes.")
    return lines + (final.faults() if final.differences else [])


def budget_table(found: Sequence[Found], style: Style = "terminal") -> str:
    """Expected best of k trials, a column a k; ± is the standard deviation of that best."""
    curves = {each.head: curve(each) for each in found}
    longest = max((len(each) for each in curves.values()), default=0)
    ks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k < longest] + ([longest] if longest else [])
    rows = [
        Row((head, *(f"{each[k - 1].mean:.3f} ± {each[k - 1].std:.3f}" if k <= len(each) else "" for k in ks)))
        for head, each in curves.items()
    ]
    header = ("expected dev, best of", *(f"{k}" for k in ks))
    return table([Block(header, rows, ("left", *("right" for _ in ks)))], style)


def curve(found: Found) -> list[BestOfK]:
    """Over all finished trials; a pruned one counts with what it had reached."""
    return best_of_k([trial.values[0] for trial in found.trials if trial.finished and trial.values])


def front_table(found: Found, style: Style = "terminal") -> str:
    cost = found.about.job.objective.cost
    names = ["parameters", *[cost] * (cost != "parameters"), "dev mean"]
    rows = []
    for each in found.front:
        costs = [f"{each.values[1]:,.4g}"] * (cost != "parameters")
        rows.append(Row((f"trial {each.number}", f"{each.parameters:,}", *costs, f"{each.values[0]:.4f}")))
    header = (f"{found.head} · front", *names)
    return table([Block(header, rows, ("left", *["right"] * (len(header) - 1)))], style)


def trials_frame(found: Found) -> pd.DataFrame:
    """A row a trial."""
    import pandas as pd

    return pd.DataFrame(list(_trial_rows(found)))


def final_frame(final: Final) -> pd.DataFrame:
    import pandas as pd

    columns = ["head", "split", "task", "metric", "default", "tuned", "difference", "ci_low", "ci_high", "p", "n_seeds"]
    rows = [
        (
            final.head,
            final.split,
            name,
            final.metrics.get(name, ""),
            d.a,
            d.b,
            d.value,
            d.low,
            d.high,
            d.p,
            len(final.seeds),
        )
        for name, d in final.differences.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def budget_frame(found: Sequence[Found]) -> pd.DataFrame:
    import pandas as pd

    rows = [(each.head, point.k, point.mean, point.std) for each in found for point in curve(each)]
    return pd.DataFrame(rows, columns=["head", "k", "expected_best", "std"])


def _trial_rows(found: Found) -> Iterator[dict[str, Any]]:
    for trial in found.trials:
        yield {
            "head": found.head,
            "trial": trial.number,
            "state": trial.state.lower(),
            "value": trial.values[0] if trial.values else None,
            "parameters": trial.parameters or None,
            **_costs(found, trial),
            "seconds": trial.seconds,
            **{f"dev_{task}": score for task, score in trial.scores.items()},
            **{name: trial.params.get(name) for name in found.about.job.space.names()},
            "reason": trial.reason or trial.note,
        }


def _costs(found: Found, trial: Trial) -> dict[str, float | None]:
    """What else was minimised, where that is no column of its own."""
    cost = found.about.job.objective.cost
    if cost in ("", "parameters"):
        return {}
    return {cost: trial.values[1] if len(trial.values) == 2 else None}


def _is_default(trial: Trial, space: Space) -> bool:
    return dict(trial.params) == space.default()


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
