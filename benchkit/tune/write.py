"""The files of a search, made anew from its studies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchkit.store.atomic import write_atomic
from benchkit.tune.claims import load
from benchkit.tune.page import page, section
from benchkit.tune.search import Found
from benchkit.tune.storage import Storage
from benchkit.tune.tables import (
    best_table,
    budget_frame,
    budget_table,
    final_frame,
    final_note,
    final_table,
    front_table,
    space_table,
    trials_frame,
)

if TYPE_CHECKING:
    import pandas as pd

_SEED = 0  # of the forest that fANOVA grows


def write_study(folder: Path, found: Found, storage: Storage, log: Callable[[str], None]) -> dict[str, bytes]:
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
    from benchkit.tune.plots import draw_all

    pictures = draw_all(found, shares) if found.best else {}
    for name, content in pictures.items():
        write_atomic(folder / f"{name}.png", content)
    return pictures


def write_search(
    out: Path, found: Sequence[Found], pictures: Mapping[str, Mapping[str, bytes]], log: Callable[[str], None]
) -> None:
    """What is about all heads: `best-of-k.csv`, `best-of-k.png`, and `tune.html` with everything in it."""
    usable = [each for each in found if each.best]
    write_atomic(out / "best-of-k.csv", _csv(budget_frame(usable)))
    shared = {}
    if usable and find_spec("matplotlib") is not None:
        from benchkit.tune.plots import best_of_k_plot, png

        shared["best of k"] = png(best_of_k_plot(usable))
        write_atomic(out / "best-of-k.png", shared["best of k"])
    sections = [section("Equal budget", [budget_table(usable)] if usable else ["no trial finished"], shared)]
    sections += [_section(each, pictures.get(each.about.job.study, {})) for each in found]
    write_atomic(out / "tune.html", page("benchkit tune", sections).encode())


def importances(found: Found, storage: Storage, log: Callable[[str], None]) -> dict[str, float]:
    """Shares of the objective's variance by field (fANOVA, Hutter et al. 2014), the largest first."""
    values = {trial.values[0] for trial in found.trials if trial.state == "COMPLETE"}
    if len(values) < 2 or len(found.about.job.space.dimensions) < 2:
        return {}
    if find_spec("sklearn") is None:
        log("importances left out: they take scikit-learn, pip install 'benchkit[tune]'")
        return {}
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = load(found.about.job.study, storage)
    target = (lambda trial: trial.values[0]) if found.about.job.objective.cost else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=_SEED), target=target)


def _section(found: Found, pictures: Mapping[str, bytes]) -> str:
    job = found.about.job
    texts = [best_table(found), space_table(found.head, job.space)]
    if found.front:
        texts.append(front_table(found))
    notes = [found.problem] if found.problem else []
    if found.final:
        texts.insert(1, final_table(found.final))
        notes += final_note(found.final)
    return section(f"{found.head}: study {job.study}", texts, pictures, notes)


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()
