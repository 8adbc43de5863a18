"""The tables, pictures and files of a search."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
import pandas as pd
from jinja2 import Environment, PackageLoader
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from benchkit.analysis.plots import COLOURS
from benchkit.analysis.tables import Block, Row, interval, number, table
from benchkit.store.files import write_atomic
from benchkit.tuning.search import FinalComparison, StudyResult
from benchkit.tuning.space import Space
from benchkit.tuning.storage import Storage
from benchkit.tuning.study import load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEED = 0  # of the forest that fANOVA grows
_KS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


@dataclass(frozen=True)
class BestOfK:
    """The best of `k` trials: its expected value and standard deviation."""

    k: int
    mean: float
    std: float


def best_of_k(values: Sequence[float]) -> list[BestOfK]:
    """Expected maximum of k draws, k = 1 … n, from the n values that a search found.

    This is exact for draws with replacement (Dodge et al. 2019, "Show Your Work", equations 3 to 6): if F is the share
    of values up to v, the maximum of k draws is at most v with probability F(v)^k. Trials must be exchangeable, as in a
    random search. In an adaptive search, later trials are better than early ones. The curve then describes the quality
    of that search's trials, not how fast it finds them.
    """
    found, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    share = np.cumsum(counts) / max(1, len(values))
    curve = []
    for k in range(1, len(values) + 1):
        mass = np.diff(share**k, prepend=0.0)  # probability that the maximum is this value
        mean = float((mass * found).sum())
        curve.append(BestOfK(k, mean, math.sqrt(max(0.0, float((mass * (found - mean) ** 2).sum())))))
    return curve


def curve(found: StudyResult) -> list[BestOfK]:
    """`best_of_k` over all finished trials. A pruned trial counts with the value that it had reached."""
    return best_of_k([trial.values[0] for trial in found.trials if trial.finished and trial.values])


# Tables


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], align: Literal["left", "right"] = "right") -> str:
    """A table for a terminal; `align` is for all columns except the first."""
    aligned = ("left", *[align] * (len(header) - 1))
    return table([Block(tuple(header), [Row(tuple(cells)) for cells in rows], aligned)], "terminal")


def space_table(head: str, space: Space) -> str:
    rows = [(each.name, str(each), _show(each.default)) for each in space.dimensions]
    return _table((head, "searched", "default"), rows, "left")


def best_table(found: StudyResult) -> str:
    """A table of the best and the default config, field by field."""
    best, config = found.best, found.config
    if best is None:
        return "no trial finished"
    default = config.space.default()
    start = next((trial for trial in found.trials if trial.finished and dict(trial.params) == default), None)
    rows = [(name, _show(value), _show(best.params.get(name))) for name, value in default.items()]
    solved = config.widths[:1] if config.size else ()
    rows += [(f"{found.head}.{name}", "solved", _show(best.config.get(name))) for name in solved]
    parameters = f"{start.parameters:,}" if start and start.parameters else "–"
    rows.append(("parameters", parameters, f"{best.parameters:,}"))
    rows.append((config.quality, f"{start.values[0]:.4f}" if start and start.values else "–", f"{best.values[0]:.4f}"))
    return _table((config.name, "default (trial 0)", f"best (trial {best.number})"), rows)


def final_table(final: FinalComparison) -> str:
    """A table of the default and the best config with fresh seeds: means, difference, interval and p."""
    if not final.differences:
        return "no comparison: " + "; ".join(final.faults())
    rows = []
    for name, each in final.differences.items():
        task = f"{name} · {final.metrics[name]}" if name in final.metrics else "mean of tasks"
        change = (number(each.value, signed=True, digits=4), interval(each.low, each.high, digits=4), number(each.p))
        rows.append((task, f"{each.a:.4f}", f"{each.b:.4f}", *change))
    header = (f"{final.head} · {final.split}", "default", "tuned", "difference", "95 % interval", "p")
    return _table(header, rows)


def final_note(final: FinalComparison) -> list[str]:
    seeds = ", ".join(map(str, final.seeds))
    lines = [f"Fresh seeds {seeds}, trained in fresh processes; paired by seed and example."]
    if final.split == "dev":
        lines.append("No task has a labelled test: this is dev, which chose the tuned config and so flatters it.")
    if len(final.seeds) < 5 and final.differences:
        lines.append("With few seeds the interval is wide: benchkit plan says how many a difference takes.")
    return lines + (final.faults() if final.differences else [])


def budget_table(found: Sequence[StudyResult]) -> str:
    """A table of the expected best of k trials, one column per k; ± is the standard deviation of that best."""
    curves = {each.head: curve(each) for each in found}
    longest = max(map(len, curves.values()), default=0)
    ks = [*(k for k in _KS if k < longest), *[longest] * bool(longest)]
    rows = [
        (head, *(f"{each[k - 1].mean:.3f} ± {each[k - 1].std:.3f}" if k <= len(each) else "" for k in ks))
        for head, each in curves.items()
    ]
    return _table(("expected dev, best of", *map(str, ks)), rows)


def front_table(found: StudyResult) -> str:
    cost = found.config.cost
    header = (f"{found.head} · front", "parameters", *[cost] * (cost != "parameters"), "dev mean")
    rows = []
    for each in found.front:
        costs = (f"{each.parameters:,}", f"{each.values[1]:,.4g}")[: len(header) - 2]
        rows.append((f"trial {each.number}", *costs, f"{each.values[0]:.4f}"))
    return _table(header, rows)


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


# Pictures


def draw_all(found: StudyResult, study: optuna.Study, importances: Mapping[str, float]) -> dict[str, bytes]:
    """Optuna's PNGs, by name, for a study with at least one complete trial.

    Args:
        importances: if empty, they have no picture.
    """
    from matplotlib import pyplot, rc_context
    from optuna.visualization import matplotlib as plots

    config = found.config
    target = (lambda trial: trial.values[0]) if config.cost else None  # with one, there is no line of the best so far
    options: dict[str, Any] = {"target": target, "target_name": config.quality}
    drawers: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, **options),
        "slice": lambda: plots.plot_slice(study, **options),
        "parallel": lambda: plots.plot_parallel_coordinate(study, **options),
    }
    if importances:
        options_of_forest = {"evaluator": FanovaImportanceEvaluator(seed=_SEED), **options}
        drawers["importances"] = lambda: plots.plot_param_importances(study, **options_of_forest)
    if config.cost:
        drawers["front"] = lambda: plots.plot_pareto_front(study, target_names=[config.quality, config.cost])
    pictures = {}
    for name, draw in drawers.items():
        with rc_context(), warnings.catch_warnings():  # pyplot draws them, in a style of their own
            warnings.simplefilter("ignore")  # "experimental", and of layouts
            figure = np.ravel(draw())[0].get_figure(root=True)
            pictures[name] = _png(figure)
            pyplot.close(figure)
    return pictures


def best_of_k_plot(found: Sequence[StudyResult]) -> bytes:
    """A PNG of the expected best of k trials, one line per head, ± one standard deviation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for index, each in enumerate(found):
        points, colour = curve(each), COLOURS[index % len(COLOURS)]
        ks, means, stds = ([getattr(point, name) for point in points] for name in ("k", "mean", "std"))
        axes.plot(ks, means, color=colour, label=each.head)
        axes.fill_between(ks, np.subtract(means, stds), np.add(means, stds), color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="trials", ylabel=f"expected best {found[0].config.quality}", title="Best of k trials")
    ticks = [k for k in _KS if k <= max(len(curve(each)) for each in found)]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


# Files


def write_study(folder: Path, found: StudyResult, storage: Storage, log: Callable[[str], None]) -> dict[str, bytes]:
    """`trials.csv`, `importances.csv`, `comparison.csv` and the pictures of one study; returns the pictures."""
    write_csv(folder / "trials.csv", pd.DataFrame(list(_trial_rows(found))))
    if found.final and found.final.differences:
        write_csv(folder / "comparison.csv", _final_frame(found.final))
    shares = importances(found, storage, log)
    if shares:
        write_csv(folder / "importances.csv", pd.DataFrame(list(shares.items()), columns=["field", "share"]))
    if find_spec("matplotlib") is None:
        log("pictures left out: they take matplotlib, pip install matplotlib")
        return {}
    pictures = draw_all(found, load(found.config.name, storage), shares) if found.best else {}
    for name, content in pictures.items():
        write_atomic(folder / f"{name}.png", content)
    return pictures


def write_search(out: Path, found: Sequence[StudyResult], pictures: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write the files about all heads: `best-of-k.csv`, `best-of-k.png`, and `tune.html` with everything."""
    usable = [each for each in found if each.best]
    rows = [(each.head, point.k, point.mean, point.std) for each in usable for point in curve(each)]
    write_csv(out / "best-of-k.csv", pd.DataFrame(rows, columns=["head", "k", "expected_best", "std"]))
    shared = {}
    if usable and find_spec("matplotlib") is not None:
        shared["best of k"] = best_of_k_plot(usable)
        write_atomic(out / "best-of-k.png", shared["best of k"])
    sections = [("Equal budget", [budget_table(usable) if usable else "no trial finished"], [""], shared)]
    for each in found:
        tables, notes = [best_table(each), space_table(each.head, each.config.space)], [each.problem]
        tables += [front_table(each)] * bool(each.front)
        if each.final:
            tables.insert(1, final_table(each.final))
            notes += final_note(each.final)
        title = f"{each.head}: study {each.config.name}"
        sections.append((title, tables, notes, dict(pictures.get(each.config.name, {}))))
    environment = Environment(loader=PackageLoader("benchkit.tuning", ""), autoescape=True)
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    page = environment.get_template("tune.html.jinja").render(sections=sections)
    write_atomic(out / "tune.html", page.encode())


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_atomic(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())


def _trial_rows(found: StudyResult) -> Iterator[dict[str, Any]]:
    """One row per trial. A minimised cost gets a column unless it already has one."""
    cost = found.config.cost
    for trial in found.trials:
        costs = {cost: trial.values[1] if len(trial.values) == 2 else None} if cost not in ("", "parameters") else {}
        yield {
            "head": found.head,
            "trial": trial.number,
            "state": trial.state.lower(),
            "value": trial.values[0] if trial.values else None,
            "parameters": trial.parameters or None,
            **costs,
            "seconds": trial.seconds,
            **{f"dev_{task}": score for task, score in trial.scores.items()},
            **{name: trial.params.get(name) for name in found.config.space.names()},
            "reason": trial.reason or trial.note,
        }


def _final_frame(final: FinalComparison) -> pd.DataFrame:
    header = ["head", "split", "task", "metric", "default", "tuned", "difference", "ci_low", "ci_high", "p", "n_seeds"]
    rows = []
    for name, each in final.differences.items():
        numbers = (each.a, each.b, each.value, each.low, each.high, each.p, len(final.seeds))
        rows.append((final.head, final.split, name, final.metrics.get(name, ""), *numbers))
    return pd.DataFrame(rows, columns=header)


def importances(found: StudyResult, storage: Storage, log: Callable[[str], None]) -> dict[str, float]:
    """Shares of the objective's variance by field (fANOVA, Hutter et al. 2014), the largest first."""
    values = {trial.values[0] for trial in found.trials if trial.state == "COMPLETE"}
    if len(values) < 2 or len(found.config.space.dimensions) < 2:
        return {}
    if find_spec("sklearn") is None:
        log("importances left out: they take scikit-learn, pip install 'benchkit[tune]'")
        return {}
    study = load(found.config.name, storage)
    target = (lambda trial: trial.values[0]) if found.config.cost else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=_SEED), target=target)
