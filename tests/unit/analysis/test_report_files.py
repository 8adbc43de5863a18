"""The files of a run: whole, rereadable, the same each time."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
from helpers.failures import failure

from benchkit.analysis.plots import draw_curves, style
from benchkit.analysis.report import comparison_text, curves_frame, summary_frame, write_report
from benchkit.analysis.tables import Results, collect
from benchkit.core.errors import UserError
from benchkit.core.record import CurvePoint, PhaseResult, Record, Score
from benchkit.core.task import Metric, TaskSpec
from benchkit.experiment.companions import Control

METRIC = Metric("accuracy", lambda _, __: 0.0)
TASKS = {name: TaskSpec(name, "", ("text",), "label", METRIC, {}, ()) for name in ("tone", "twin", "grade")}
CONTROLS = [
    Control("majority class", task, split, "accuracy", 0.25, 1.0) for task in TASKS for split in ("train", "dev")
]


def _phase(name: str, base: float) -> PhaseResult:
    """Scores of `base`, train 0.2 above, and a curve of two epochs that ends at them."""
    keys = [(task, split, base + gap) for task in TASKS for split, gap in (("train", 0.2), ("dev", 0.0))]
    scores = tuple(Score(task, split, "accuracy", value, 1.0, 10) for task, split, value in keys)
    curve = tuple(
        CurvePoint(name, epoch, task, split, "accuracy", value - (2 - epoch) / 10, 1 - value)
        for epoch in (1, 2)
        for task, split, value in keys
    )
    return PhaseResult(name, 2, 2, 8, 4, "", 4.0, 0.5, scores, curve)


def _records() -> list[Record]:
    """Two heads with three seeds a hundredth apart; one cell of `wide` diverged."""
    records = [
        Record(
            f"{head}-{seed}",
            head,
            seed,
            "ok",
            {},
            {"head": 940},
            phases=(_phase("pretrain", base + seed / 100), _phase("finetune", base + 0.1 + seed / 100)),
        )
        for head, base in (("plain", 0.32), ("wide", 0.36))
        for seed in range(3)
    ]
    last = records[-1]
    error = 'finetune epoch 2: the loss of tone is nan, "inf", or worse'
    records[-1] = Record(
        last.key,
        last.head,
        2,
        "diverged",
        {},
        {"head": 940},
        phases=last.phases,
        failure=failure(error),
    )
    return records


def _results() -> Results:
    return collect(_records(), CONTROLS, TASKS)


def test_the_files(tmp_path: Path) -> None:
    said: list[str] = []
    write_report(tmp_path, _results(), _records(), log=said.append)
    assert said == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curves.csv",
        "curves.png",
        "summary.csv",
        "table.md",
    ]
    summary = summary_frame(_results())
    read = pd.read_csv(tmp_path / "summary.csv", dtype={"head_params": "Int64"}, keep_default_na=True)
    for column in ("phase", "error"):
        read[column] = read[column].fillna("")
    pd.testing.assert_frame_equal(read, summary, rtol=1e-5, check_dtype=False)
    curves = pd.read_csv(tmp_path / "curves.csv")
    pd.testing.assert_frame_equal(curves, curves_frame(_records()), rtol=1e-5, check_dtype=False)
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert table == comparison_text(_results(), style="markdown")
    assert matplotlib.image.imread(tmp_path / "curves.png").shape[1] >= 1200


def test_the_files_are_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, _results(), _records(), log=pytest.fail)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_without_matplotlib_a_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchkit.analysis.report.find_spec", lambda name: None)
    said: list[str] = []
    write_report(tmp_path, _results(), _records(), log=said.append)
    assert said == ["curves.png left out: it takes matplotlib, pip install matplotlib"]
    assert not (tmp_path / "curves.png").exists()


def test_no_curve_no_picture(tmp_path: Path) -> None:
    said: list[str] = []
    records = [Record("a-0", "a", 0, "failed", {}, failure=failure("x"))]
    write_report(tmp_path, collect(records, [], TASKS), records, log=said.append)
    assert said == ["curves.png left out: no cell has a curve"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*summary.csv"):
        write_report(tmp_path / "file", _results(), _records(), log=pytest.fail)


def test_the_picture_shows_means_bands_and_phases() -> None:
    figure = draw_curves(_results(), _records(), CONTROLS)
    assert figure is not None
    assert len(figure.axes) == 2 * 3
    first = figure.axes[0]
    assert (first.get_title(), first.get_ylabel()) == ("tone", "accuracy")
    # Of `plain`, three seeds a hundredth apart: train, then dev, each in two phases of two epochs.
    lines = [line for line in first.get_lines() if line.get_color() == "#0072B2"]
    assert [line.get_linestyle() for line in lines] == ["--", "--", "-", "-"]
    assert [np.asarray(line.get_xdata()).tolist() for line in lines] == [[1, 2], [3, 4]] * 2
    assert np.asarray(lines[2].get_ydata()).tolist() == pytest.approx([0.23, 0.33])
    band = np.asarray(first.collections[2].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.22, 0.34))
    boundary = [line for line in first.get_lines() if np.asarray(line.get_xdata()).tolist() == [2.5, 2.5]]
    assert len(boundary) == 1
    assert [text.get_text() for text in first.texts] == ["pretrain ", " finetune"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["plain", "wide (2 of 3 seeds)", "train", "dev", "control, dev"]
    assert {line.get_color() for line in first.get_lines() if line.get_linestyle() == "-"} >= {"#0072B2", "#D55E00"}


@pytest.mark.parametrize("names", [1, 12])
def test_the_legend_fits(names: int) -> None:
    records = [
        Record(f"head_number_{i}-0", f"head_number_{i}", 0, "ok", {}, phases=(_phase("finetune", 0.4),))
        for i in range(names)
    ]
    figure = draw_curves(collect(records, (), {"tone": TASKS["tone"]}), records)
    assert figure is not None
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert (box.x0, box.y0) >= (0, 0)
    assert box.x1 <= figure.bbox.x1


def test_many_heads_look_unlike_each_other() -> None:
    assert len({style(index) for index in range(21)}) == 21
