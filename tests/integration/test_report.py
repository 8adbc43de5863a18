"""`benchkit report` and `benchkit plan`, as they are called."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.cells import write_cells
from helpers.made_run import Made, write_run

from benchkit.analysis.comparisons import needs
from benchkit.analysis.results import read_runs
from benchkit.analysis.statistics import power_of
from benchkit.analysis.tables import latex_escape
from benchkit.cli import cli
from benchkit.core.errors import UserError

SKILLS = {"baseline": 0.75, "cnn": 0.76, "bad": 0.4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_cells(folder, SKILLS, range(5))
    write_cells(folder, {"bad": 0.4}, (5,), status="collapsed", error="sst predicts only class '50 % & more_of #1'")
    write_cells(folder, {"gone": 0.4}, (0,), status="diverged", error="pretrain: loss is NaN")
    return folder


def _call(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_terminal_shows_scores_letters_and_differences(run: Path) -> None:
    text = _call("report", run)
    lines = text.splitlines()
    assert max(map(len, lines[1:])) <= 100  # the first has the folder
    assert any(line.startswith("bad !") and line.split()[8] == "b" for line in lines)
    assert any(line.startswith("gone !") and "diverged" in line for line in lines)
    assert any(line.startswith("cnn − bad") and line.endswith("cnn better") for line in lines)
    assert any(line.startswith("cnn − baseline") and line.endswith("not told apart") for line in lines)
    assert "collapsed in pretrain" in text
    assert "benchkit plan" not in text  # five seeds


def test_against_one_head_there_are_no_letters(run: Path) -> None:
    text = _call("report", run, "--against", "baseline", "--aso")
    assert "cnn − bad" not in text
    assert "share a letter" not in text
    assert "ASO ε" in text
    with pytest.raises(UserError, match="unknown head 'base'"):
        _call("report", run, "--against", "base")


def test_csv_and_json_hold_the_same_numbers(run: Path, tmp_path: Path) -> None:
    data = json.loads(_call("report", run, "--format", "json"))
    assert {
        "runs",
        "cells",
        "scores",
        "verdicts",
        "groups",
        "together_minus_alone",
        "interference",
        "notes",
    } == set(data)
    assert len(data["cells"]) == 17
    scores = list(csv.DictReader(io.StringIO(_call("report", run, "--format", "csv"))))
    assert [row["head"] for row in scores] == [row["head"] for row in data["scores"]]
    path = tmp_path / "verdicts.csv"
    assert _call("report", run, "--format", "csv", "--only", "verdicts", "--out", path) == f"wrote {path}\n"
    verdicts = list(csv.DictReader(io.StringIO(path.read_text())))
    assert len(verdicts) == len(data["verdicts"]) == 12
    assert list(verdicts[0]) == list(data["verdicts"][0])
    assert float(verdicts[0]["difference"]) == pytest.approx(data["verdicts"][0]["difference"], rel=1e-5)
    assert data["verdicts"][-1]["mcnemar"] is None
    assert {"phase": "pretrain", "task": "sst", "split": "test", "groups": [["cnn", "baseline"], ["bad"]]} in [
        {**each, "groups": [sorted(group, reverse=True) for group in each["groups"]]} for each in data["groups"]
    ]


def test_markdown_has_a_table_a_task(run: Path) -> None:
    assert _call("report", run, "--format", "markdown").count("\n|:---") == 8


def test_markdown_escapes_the_lines_above_the_tables(tmp_path: Path) -> None:
    """Names of folders, encoders, data and devices are not Markdown."""
    folder = tmp_path / "a_b_|<c>"
    write_cells(folder, {"baseline": 0.75}, (0,))
    first = _call("report", folder, "--format", "markdown").splitlines()[0]
    assert r"/a\_b\_\|\<c>: " in first


def test_many_pairs_are_shown_on_request_only(tmp_path: Path) -> None:
    write_cells(tmp_path, {f"h{i}": 0.6 for i in range(6)}, (0, 1))
    assert "15 pairs: --only verdicts shows them all" in _call("report", tmp_path)
    assert _call("report", tmp_path, "--only", "verdicts").count("h5 − h4") == 4


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: the LaTeX is not compiled")
def test_latex_compiles(run: Path, tmp_path: Path) -> None:
    _call("report", run, "--format", "latex", "--out", tmp_path / "table.tex")
    (tmp_path / "page.tex").write_text(
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage[margin=2.5cm]{geometry}\usepackage{booktabs}"
        r"\begin{document}\input{table.tex}\end{document}"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "page.log").read_text(errors="replace")


def test_latex_is_escaped() -> None:
    assert latex_escape("50 % & a_b #1 {x} ~ ^ \\") == (
        r"50 \% \& a\_b \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert latex_escape("1 ± 2 − é ✓") == r"1 $\pm$ 2 $-$ é [U+2713]"


def test_a_plan_says_how_many_seeds_and_when_none_suffice(run: Path) -> None:
    stored = read_runs([run], log=lambda _: None)
    for verdict, need in needs(stored, 0.1, 0.8, against="baseline"):
        found = verdict.difference
        at = [power_of(found.seed_variance, found.example_variance, n, found.example_freedom)(0.1)
              for n in ((need.seeds or 0) - 1, need.seeds or 0) if n > 1]  # fmt: skip
        if need.seeds is not None:
            assert at[-1] >= 0.8
            assert len(at) == 1 or at[0] < 0.8
            assert need.limit < 0.1
            assert need.cautious is None or need.cautious >= need.seeds
        else:
            assert need.limit > 0.099
        assert need.detects >= need.limit
    text = _call("plan", run, "--difference", 0.03)
    assert "no number" in text
    assert "Only more test examples lower the limit" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 100


def test_a_planned_difference_is_found_as_often_as_planned() -> None:
    """100 examples short of nothing: seeds alone, five of them."""
    import numpy as np

    from benchkit.analysis.statistics import Evidence, differences

    random = np.random.default_rng(0)
    still = np.zeros((5, 10))
    hits = [
        differences({"t": Evidence(np.zeros(5), still)}, {"t": Evidence(random.normal(1.5, 1, 5), still)})["t"].p < 0.05
        for _ in range(2000)
    ]
    assert np.mean(hits) == pytest.approx(power_of(1.0, 0.0, 5, 9)(1.5), abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--difference", "-1"), "--difference takes a positive number"),
        (("--power", "1"), "--power takes a number between"),
        (("--against", "nobody"), "unknown head 'nobody'"),
    ],
)
def test_mistakes_are_one_line(run: Path, arguments: Sequence[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _call("plan", run, *arguments)


def test_the_commands_of_the_documentation_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On made-up cells in place of a run's."""
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text("utf-8")
    lines = [line for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    monkeypatch.chdir(tmp_path)
    write_cells(Path("results/runs/demo-embedded"), SKILLS, (0, 1))
    write_cells(Path("results/runs/longer"), SKILLS, (0, 1), identity={"protocol": {"pretrain": {"epochs": 9}}})
    called = [shlex.split(line)[1:] for line in lines if line.startswith(("benchkit report", "benchkit plan"))]
    assert len(called) >= 4
    for arguments in called:
        _call(*arguments)
    (python,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(python, {})


def test_a_plan_takes_two_seeds(tmp_path: Path) -> None:
    write_cells(tmp_path, SKILLS, (0,))
    with pytest.raises(UserError, match="two heads with two seeds"):
        _call("plan", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["report", "plan"])
def test_three_hundred_cells_take_less_than_ten_seconds(command: str, many: Path) -> None:
    before = time.process_time()
    assert "head29" in _call(command, many)
    assert time.process_time() - before < 10


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("many"), Made(heads=[f"head{i}" for i in range(30)], seeds=10))
