"""H3 and H4 as a user has them: from files to tables, by the calls and commands that the documentation shows.

In this process, so that a few seconds of imports, and the start of CUDA, are not taken for training: a small run first
has done all that. What is measured includes reading data and encoder, the plan, the stores and the tables.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from gpu_setting import Row, Setting
from made_up_files import write_data, write_encoder

from benchkit import api
from benchkit.cli.tune import tune

HEADS = ("baseline", "recurrent", "cnn")
TRIALS = 50


def frozen(setting: Setting) -> Iterator[Row]:
    """H3: phase 1 of the report with three heads, `benchkit.api.run`, from an empty feature store."""
    warm_up(setting)
    began = time.perf_counter()
    times, result = run(setting, setting.data, setting.encoder, "three")
    total = time.perf_counter() - began
    encoding = times["start", 0] - times["plan", 0]
    what = f"tokenise, encode and store {texts(setting):,} texts (encoder moved to the device, table read back)"
    yield {"what": what, "value": f"{encoding:.2f} s", "target": ""}
    for number, cell in enumerate(result.cells):
        if cell.status == "failed":  # with random labels, "collapsed" is what is to be expected
            raise RuntimeError(f"{cell.head}: {cell.error}")
        phase, spent = cell.phases[0], times["cell", number] - times["start", number]
        parts = f"training {phase.train_seconds:.2f} s, dev {phase.eval_seconds:.2f} s"
        what = f"{cell.head}: {phase.epochs} epochs, dev after each, and its record ({parts})"
        yield {"what": what, "value": f"{spent:.2f} s", "target": ""}
        row = {"what": f"{cell.head}, from texts: the encoding and the row above", "target": "3 s (1.5 s)"}
        yield row | {"value": f"{encoding + spent:.2f} s"}
    before, after = times["plan", 0] - began, began + total - times["cell", len(result.cells) - 1]
    yield {"what": "before: read data and encoder, plan", "value": f"{before:.2f} s", "target": ""}
    yield {"what": "after: tables and page", "value": f"{after:.2f} s", "target": ""}
    yield {"what": f"all of benchkit.api.run, {len(result.cells)} heads", "value": f"{total:.2f} s", "target": ""}


def search(setting: Setting) -> Iterator[Row]:
    """H4: `benchkit tune` with features stored: one trial after another, then many at once where that is built."""
    warm_up(setting)
    many = 4 if setting.smoke else TRIALS
    if not (setting.folder / "three").exists():
        study(setting, 1)  # stores the features, as H3 has
    few = 2
    plain, note = study(setting, 1, "--no-cuda-graph")
    what = f"baseline, one trial after another, launched one by one: a trial ({note})"
    yield {"what": what, "value": f"{plain:.2f} s", "target": ""}
    yield {"what": f"{many} of them, extrapolated", "value": f"{many * plain:.1f} s", "target": ""}
    single, note = study(setting, few)
    what = f"one trial after another, as it is by default there: a trial ({note})"
    yield {"what": what, "value": f"{single:.2f} s", "target": ""}
    yield {"what": f"{many} of them, extrapolated", "value": f"{many * single:.1f} s", "target": ""}


def warm_up(setting: Setting) -> None:
    """A run in small, with an encoder of its own: imports, the device's start and its kernels."""
    if not (setting.folder / "small").exists():
        small = setting.folder / "small"
        data, encoder = write_data(small / "data", setting.share(200)), write_encoder(small / "encoder", "tiny")
        run(setting, data, encoder, "warm", epochs=1)


def run(
    setting: Setting, data: Path, encoder: Path, out: str, epochs: int = 0
) -> tuple[dict[tuple[str, int], float], api.Result]:
    """When each event came, by its name and how many of that name came before, and what the run found."""
    times: dict[tuple[str, int], float] = {}

    def note(event: dict[str, Any]) -> None:
        number = sum(name == event["event"] for name, _ in times)
        times[event["event"], number] = time.perf_counter()

    result = api.run(
        HEADS,
        preset="paper",
        phases="pretrain",
        seeds=1,
        data=data,
        encoder=encoder,
        device=setting.device.type,
        settings={"quora.train_size": 0, "pretrain.epochs": epochs or (2 if setting.smoke else 10)},
        out=setting.folder / out,
        on_event=note,
    )
    return times, result


def texts(setting: Setting) -> int:
    """Sentences of train and dev; the few that occur twice are encoded once."""
    return sum(sum(rows.values()) * (1 if name == "sst" else 2) for name, rows in setting.rows.items())


def study(setting: Setting, trials: int, *more: str) -> tuple[float, str]:
    """Seconds a trial of a study of `baseline`, from its first trial's start to its last one's end, and a remark.

    What a failed trial took counts as well, and it was trained to its end: labels are random, so that high rates lead
    to losses above a constant prediction's, and a study tries others instead, or gives up after some.
    """
    out = setting.folder / f"tune-{trials}{''.join(more)}"
    options = ["--head", "baseline", "--trials", trials, "--preset", "paper", "--phases", "pretrain", "--jobs", 1]
    options += ["--data", setting.data, "--encoder", setting.encoder, "--device", setting.device.type, "--out", out]
    # No trial is cut short, so that fifty are fifty times the work of one.
    options += ["--final-seeds", 0, "--pruner", "none", "--set", "quora.train_size=0"]
    options += ["--set", f"pretrain.epochs={2 if setting.smoke else 10}"]
    options += more
    said, began, code = io.StringIO(), time.perf_counter(), 0
    try:
        with redirect_stdout(said), redirect_stderr(said):
            tune.main([str(each) for each in options], standalone_mode=False)
    except SystemExit as error:
        code = error.code
    wall = time.perf_counter() - began
    states, seconds = finished(out / "studies.journal")
    if code and len(states) < trials:
        raise RuntimeError(f"benchkit tune ended with {code}: {said.getvalue()[-2000:]}")
    note = f"mean of {len(states)}, {states.count('FAIL')} of them failed; the command {wall:.1f} s"
    return seconds / len(states), note


def finished(journal: Path) -> tuple[list[str], float]:
    """The states of a study's trials, and the seconds from the first one's start to the last one's end."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    (found,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=found.study_name, storage=storage).trials
    ended = [trial for trial in trials if trial.datetime_start and trial.datetime_complete]
    span = max(trial.datetime_complete for trial in ended) - min(trial.datetime_start for trial in ended)
    return [trial.state.name for trial in ended], span.total_seconds()
