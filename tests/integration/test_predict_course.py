"""`predict --format cs224n` writes what the course's own script writes: names, header, ids, order, values."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers.course import call, run, write_course_files

from benchkit.predict.model import one, open_run

# Of `test_multitask` in the course's multitask_classifier.py: its files, headers (the misspelling is the course's), and
# how a NumPy number of each task prints.
COURSE = {
    "sst": ("sst", "ids-sst", "id \t Predicted_Sentiment ", r"[0-4]"),
    "quora": ("para", "quora", "id \t Predicted_Is_Paraphrase ", r"[01]\.0"),
    "sts": ("sts", "sts", "id \t Predicted_Similiary ", r"-?\d+\.\d+(e-?\d+)?"),
}


def course_ids(path: Path) -> list[str]:
    """As the course's `load_multitask_data` reads them."""
    with path.open(encoding="utf-8", newline="") as file:
        return [record["id"].lower().strip() for record in csv.DictReader(file, delimiter="\t")]


def check_submission(folder: Path, data: Path, tasks: tuple[str, ...]) -> None:
    """What a grader relies on."""
    names = {f"{COURSE[task][0]}-{split}-output.csv" for task in tasks for split in ("dev", "test")}
    assert {path.name for path in folder.iterdir()} == names
    for task in tasks:
        name, stem, header, value = COURSE[task]
        for split, suffix in (("dev", ""), ("test", "-student")):
            content = (folder / f"{name}-{split}-output.csv").read_text("utf-8")
            assert content.endswith("\n")
            first, *lines = content.removesuffix("\n").split("\n")
            assert first == header
            found = [re.fullmatch(rf"(\S+) , ({value}) ", line) for line in lines]
            assert all(found)
            assert [match[1] for match in found if match] == course_ids(data / f"{stem}-{split}{suffix}.csv")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The course's files and a run on them."""
    base = tmp_path_factory.mktemp("course")
    data = write_course_files(base / "data")
    run(base / "run", data, heads=["baseline"], seeds=1, phases=["pretrain"])
    return data, base / "run"


def test_from_the_course_s_files_to_a_submission(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = folders
    asked = ("predict", "--run", out, "--head", "baseline", "--format", "cs224n", "--out", tmp_path / "a")
    assert call(monkeypatch, *asked) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    check_submission(tmp_path / "a", data, ("sst", "quora", "sts"))
    store = open_run(out, pytest.fail)
    frame = store.predictions(one(store, "baseline", None, "").key)
    stored = frame[(frame["task"] == "sts") & (frame["split"] == "test")]["prediction"].tolist()
    lines = (tmp_path / "a" / "sts-test-output.csv").read_text().splitlines()[1:]
    assert pd.Series([line.split(" , ")[1] for line in lines]).astype("float32").tolist() == stored


def test_of_other_rows_than_the_run_s_they_are_predicted_now(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A test file with one row less: that one file is made anew, and says what it said before."""
    data, out = folders
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "sts-test-student.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    asked = ("predict", "--run", out, "--head", "baseline", "--format", "cs224n")
    assert call(monkeypatch, *asked, "--out", tmp_path / "a") == 0
    capsys.readouterr()
    assert call(monkeypatch, *asked, "--data", tmp_path / "data", "--out", tmp_path / "b") == 0
    assert capsys.readouterr().err.splitlines() == ["predicting 59 rows of sts test, which the run did not"]
    check_submission(tmp_path / "b", tmp_path / "data", ("sst", "quora", "sts"))
    for before in (tmp_path / "a").iterdir():
        lines = before.read_text().splitlines()
        made = (tmp_path / "b" / before.name).read_text().splitlines()
        assert made == (lines[:-1] if before.name == "sts-test-output.csv" else lines)


def test_what_the_data_lack_is_said_and_not_written(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = folders
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "quora-test-student.csv").unlink()
    asked = ("predict", "--run", out, "--head", "baseline", "--format", "cs224n", "--data", tmp_path / "data")
    assert call(monkeypatch, *asked, "--out", tmp_path / "a") == 0
    assert "para-test-output.csv is not written: the data have no test split of quora" in capsys.readouterr().err
    assert not (tmp_path / "a" / "para-test-output.csv").exists()
    assert (tmp_path / "a" / "para-dev-output.csv").exists()
