"""The tables, pictures and files of a search."""

from __future__ import annotations

import base64
import html
import io
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchkit.analysis.plots import COLOURS
from benchkit.analysis.tables import Block, Row, table
from benchkit.store.files import write_atomic
from benchkit.tuning.final import FinalComparison
from benchkit.tuning.search import StudyResult
from benchkit.tuning.space import Dimension, Space
from benchkit.tuning.storage import Storage
from benchkit.tuning.study import Trial, load

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def _table(header: tuple[str, ...], rows: list[Row], align: Literal["left", "right"] = "right") -> str:
    """A table as on a terminal; `align` is of all columns but the first."""
    return table([Block(header, rows, ("left", *[align] * (len(header) - 1)))], "terminal")


def space_table(head: str, space: Space) -> str:
    rows = [Row((each.name, str(each), _show(each.default))) for each in space.dimensions]
    return _table((head, "searched", "default"), rows, "left")


def best_table(found: StudyResult) -> str:
    """The best config beside the default, field by field."""
    best = found.best
    if best is None:
        return "no trial finished"
    space = found.config.space
    start = next((trial for trial in found.trials if trial.finished and _is_default(trial, space)), None)
    rows = [Row((name, _show(value), _show(best.params.get(name)))) for name, value in space.default().items()]
    solved = found.config.widths[:1] if found.config.size else ()
    rows += [Row((f"{found.head}.{name}", "solved", _show(best.config.get(name)))) for name in solved]
    value = f"{start.values[0]:.4f}" if start and start.values else "–"
    rows.append(
        Row(("parameters", f"{start.parameters:,}" if start and start.parameters else "–", f"{best.parameters:,}"))
    )
    rows.append(Row((found.config.objective.quality, value, f"{best.values[0]:.4f}")))
    header = (found.config.name, "default (trial 0)", f"best (trial {best.number})")
    return _table(header, rows)


def final_table(final: FinalComparison) -> str:
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
    """Expected best of k trials, a column a k; ± is the standard deviation of that best."""
    curves = {each.head: curve(each) for each in found}
    longest = max((len(each) for each in curves.values()), default=0)
    ks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k < longest] + ([longest] if longest else [])
    rows = [
        Row((head, *(f"{each[k - 1].mean:.3f} ± {each[k - 1].std:.3f}" if k <= len(each) else "" for k in ks)))
        for head, each in curves.items()
    ]
    header = ("expected dev, best of", *(f"{k}" for k in ks))
    return _table(header, rows)


def curve(found: StudyResult) -> list[BestOfK]:
    """Over all finished trials; a pruned one counts with what it had reached."""
    return best_of_k([trial.values[0] for trial in found.trials if trial.finished and trial.values])


def front_table(found: StudyResult) -> str:
    cost = found.config.objective.cost
    names = ["parameters", *[cost] * (cost != "parameters"), "dev mean"]
    rows = []
    for each in found.front:
        costs = [f"{each.values[1]:,.4g}"] * (cost != "parameters")
        rows.append(Row((f"trial {each.number}", f"{each.parameters:,}", *costs, f"{each.values[0]:.4f}")))
    header = (f"{found.head} · front", *names)
    return _table(header, rows)


def trials_frame(found: StudyResult) -> pd.DataFrame:
    """A row a trial."""
    import pandas as pd

    return pd.DataFrame(list(_trial_rows(found)))


def final_frame(final: FinalComparison) -> pd.DataFrame:
    import pandas as pd

    shared = {"head": final.head, "split": final.split}
    return pd.DataFrame(
        {
            **shared,
            "task": name,
            "metric": final.metrics.get(name, ""),
            "default": each.a,
            "tuned": each.b,
            "difference": each.value,
            "ci_low": each.low,
            "ci_high": each.high,
            "p": each.p,
            "n_seeds": len(final.seeds),
        }
        for name, each in final.differences.items()
    )


def budget_frame(found: Sequence[StudyResult]) -> pd.DataFrame:
    import pandas as pd

    rows = [(each.head, point.k, point.mean, point.std) for each in found for point in curve(each)]
    return pd.DataFrame(rows, columns=["head", "k", "expected_best", "std"])


def _trial_rows(found: StudyResult) -> Iterator[dict[str, Any]]:
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
            **{name: trial.params.get(name) for name in found.config.space.names()},
            "reason": trial.reason or trial.note,
        }


def _costs(found: StudyResult, trial: Trial) -> dict[str, float | None]:
    """What else was minimised, where that is no column of its own."""
    cost = found.config.objective.cost
    if cost in ("", "parameters"):
        return {}
    return {cost: trial.values[1] if len(trial.values) == 2 else None}


def _is_default(trial: Trial, space: Space) -> bool:
    return dict(trial.params) == space.default()


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


_BLUE, _ORANGE, _GREY = COLOURS[0], COLOURS[1], "#999999"
_STATES = {"COMPLETE": (_BLUE, "o"), "PRUNED": (_GREY, "x")}


def draw_all(found: StudyResult, study: optuna.Study, importances: Mapping[str, float]) -> dict[str, bytes]:
    """PNGs by name, of a study with at least one complete trial.

    Args:
        importances: without any, there is no picture of them.
    """
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as optuna_plots

    options: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": _goal(found)}
    pictures = {"history": png(history(found)), "slice": png(slices(found))}
    pictures["parallel"] = _optuna_png(lambda: optuna_plots.plot_parallel_coordinate(study, **options))
    if importances:
        evaluator = FanovaImportanceEvaluator(seed=_SEED)
        pictures["importances"] = _optuna_png(
            lambda: optuna_plots.plot_param_importances(study, evaluator=evaluator, **options)
        )
    if found.config.objective.cost:
        pictures["front"] = png(front_plot(found))
    return pictures


def _optuna_png(draw: Callable[[], Axes]) -> bytes:
    """A picture of Optuna's, which are drawn by pyplot in a style of their own."""
    from matplotlib import pyplot, rc_context

    with rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental", and of layouts
        axes = draw()
        figure = axes.get_figure(root=True)
        assert figure is not None
        try:
            return png(figure)
        finally:
            pyplot.close(figure)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def history(found: StudyResult) -> Figure:
    """Value of each trial in the order of their numbers, and the best so far."""
    figure, axes = _panel(6.4, 3.4)
    _scatter(axes, found.trials, lambda trial: trial.number)
    complete = [trial for trial in found.trials if trial.state == "COMPLETE"]
    best = np.maximum.accumulate([trial.values[0] for trial in complete])
    axes.step([trial.number for trial in complete], best, where="post", color=_ORANGE, label="best so far")
    for trial in found.trials:
        if trial.state == "FAIL":
            axes.axvline(trial.number, color="#E5B8A0", linewidth=0.8, zorder=0)
    if any(trial.state == "FAIL" for trial in found.trials):
        axes.plot([], [], color="#E5B8A0", linewidth=0.8, label="failed")
    axes.set(xlabel="trial", ylabel=_goal(found), title=f"{found.head}: {len(found.trials)} trials")
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return figure


def slices(found: StudyResult) -> Figure:
    """Value over each searched field."""
    dimensions = found.config.space.dimensions
    columns = min(4, len(dimensions))
    rows = -(-len(dimensions) // columns)
    figure = _figure(2.6 * columns + 0.6, 2.4 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(dimensions) :]:
        axes.set_visible(False)
    for axes, dimension in zip(grid.flat, dimensions, strict=False):
        place = _placer(dimension)
        _scatter(axes, found.trials, lambda trial, d=dimension, p=place: p(trial.params[d.name]))  # type: ignore[misc]
        _scale(axes, dimension)
        axes.set_xlabel(dimension.name, fontsize=8)
        _bare(axes)
    for row in grid:
        row[0].set_ylabel(_goal(found), fontsize=8)
    return figure


def front_plot(found: StudyResult) -> Figure:
    """Quality against size or latency, and the trials that none beats."""
    figure, axes = _panel(6.4, 3.6)
    _scatter(axes, [trial for trial in found.trials if len(trial.values) == 2], lambda trial: trial.values[1])
    xs, ys = ([trial.values[i] for trial in found.front] for i in (1, 0))
    axes.step(xs, ys, where="post", color=_ORANGE, marker="o", markersize=4, label="front")
    cost = found.config.objective.cost
    axes.set(xscale="log", xlabel=f"head: {cost}", ylabel="dev mean", title=f"{found.head}: quality against {cost}")
    axes.legend(frameon=False, fontsize=8)
    return figure


def best_of_k_plot(found: Sequence[StudyResult]) -> Figure:
    """Expected best of k trials, a line a head, ± one standard deviation."""
    figure, axes = _panel(6.4, 3.6)
    for index, each in enumerate(found):
        points, colour = curve(each), COLOURS[index % len(COLOURS)]
        ks, means, stds = ([getattr(point, name) for point in points] for name in ("k", "mean", "std"))
        axes.plot(ks, means, color=colour, label=each.head)
        axes.fill_between(ks, np.subtract(means, stds), np.add(means, stds), color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", xlabel="trials", ylabel=f"expected best {_goal(found[0])}", title="Best of k trials")
    ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500) if k <= max(len(curve(each)) for each in found)]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.subplots()
    _bare(axes)
    return figure, axes


def _bare(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _goal(found: StudyResult) -> str:
    return found.config.objective.quality


def _scatter(axes: Axes, trials: Sequence[Trial], x: Callable[[Trial], Any]) -> None:
    for state, (colour, marker) in _STATES.items():
        chosen = [trial for trial in trials if trial.state == state and trial.values]
        if chosen:
            ys = [trial.values[0] for trial in chosen]
            axes.scatter([x(trial) for trial in chosen], ys, s=14, color=colour, marker=marker, label=state.lower())


def _placer(dimension: Dimension) -> Callable[[Any], Any]:
    if dimension.kind == "choice":
        return lambda value: dimension.choices.index(value)
    return lambda value: value


def _scale(axes: Axes, dimension: Dimension) -> None:
    if dimension.kind == "choice":
        axes.set_xticks(range(len(dimension.choices)), [_text(choice) for choice in dimension.choices], fontsize=7)
        axes.set_xlim(-0.5, len(dimension.choices) - 0.5)
    else:
        if dimension.log:
            axes.set_xscale("log")
            axes.minorticks_off()
        ticks = dimension.points()
        axes.set_xticks(ticks, [f"{tick:.2g}" if isinstance(tick, float) else str(tick) for tick in ticks])
    axes.tick_params(labelsize=7)


def _text(choice: Any) -> str:
    return "default" if choice == "" else str(choice)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: 13px; line-height: 1.35; }
h2 { border-top: 1px solid #ddd; padding-top: 1rem; } .note { color: #666; }
"""


def page(title: str, sections: Iterable[str]) -> str:
    body = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def section(title: str, texts: Sequence[str], pictures: Mapping[str, bytes], notes: Sequence[str] = ()) -> str:
    """A heading, tables as they are on a terminal, notes, then pictures, these inside the page itself."""
    parts = [f"<h2>{html.escape(title)}</h2>"]
    parts += [f"<pre>{html.escape(text)}</pre>" for text in texts if text]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    for name, content in pictures.items():
        data = base64.b64encode(content).decode()
        parts.append(f'<p><img alt="{html.escape(name)}" src="data:image/png;base64,{data}"></p>')
    return "\n".join(parts)


_SEED = 0  # of the forest that fANOVA grows


def write_study(folder: Path, found: StudyResult, storage: Storage, log: Callable[[str], None]) -> dict[str, bytes]:
    """`trials.csv`, `importances.csv`, `comparison.csv` and the pictures of one study; returns the pictures."""
    write_atomic(folder / "trials.csv", _csv(trials_frame(found)))
    if found.final and found.final.differences:
        write_atomic(folder / "comparison.csv", _csv(final_frame(found.final)))
    shares = importances(found, storage, log)
    if shares:
        lines = ["field,share", *(f"{name},{share:.6g}" for name, share in shares.items())]
        write_atomic(folder / "importances.csv", ("\n".join(lines) + "\n").encode())
    if find_spec("matplotlib") is None:
        log("pictures left out: they take matplotlib, pip install matplotlib")
        return {}

    pictures = draw_all(found, load(found.config.name, storage), shares) if found.best else {}
    for name, content in pictures.items():
        write_atomic(folder / f"{name}.png", content)
    return pictures


def write_search(
    out: Path, found: Sequence[StudyResult], pictures: Mapping[str, Mapping[str, bytes]], log: Callable[[str], None]
) -> None:
    """What is about all heads: `best-of-k.csv`, `best-of-k.png`, and `tune.html` with everything in it."""
    usable = [each for each in found if each.best]
    write_atomic(out / "best-of-k.csv", _csv(budget_frame(usable)))
    shared = {}
    if usable and find_spec("matplotlib") is not None:
        shared["best of k"] = png(best_of_k_plot(usable))
        write_atomic(out / "best-of-k.png", shared["best of k"])
    sections = [section("Equal budget", [budget_table(usable)] if usable else ["no trial finished"], shared)]
    sections += [_section(each, pictures.get(each.config.name, {})) for each in found]
    write_atomic(out / "tune.html", page("benchkit tune", sections).encode())


def importances(found: StudyResult, storage: Storage, log: Callable[[str], None]) -> dict[str, float]:
    """Shares of the objective's variance by field (fANOVA, Hutter et al. 2014), the largest first."""
    values = {trial.values[0] for trial in found.trials if trial.state == "COMPLETE"}
    if len(values) < 2 or len(found.config.space.dimensions) < 2:
        return {}
    if find_spec("sklearn") is None:
        log("importances left out: they take scikit-learn, pip install 'benchkit[tune]'")
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = load(found.config.name, storage)
    target = (lambda trial: trial.values[0]) if found.config.objective.cost else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=_SEED), target=target)


def _section(found: StudyResult, pictures: Mapping[str, bytes]) -> str:
    config = found.config
    texts = [best_table(found), space_table(found.head, config.space)]
    if found.front:
        texts.append(front_table(found))
    notes = [found.problem] if found.problem else []
    if found.final:
        texts.insert(1, final_table(found.final))
        notes += final_note(found.final)
    return section(f"{found.head}: study {config.name}", texts, pictures, notes)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
