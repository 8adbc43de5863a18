"""An exported folder is the model: the same bits, in a process that has only the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.course import call, run, write_course_files

import benchkit
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.predict.export import write_export
from benchkit.predict.model import Loader, Model, one, open_run

SENTENCES = ["This is a superb picture.", "A bad movie, from start to finish; nobody liked it.", "Good."]
PAIRS = [("A boy is hiding a ball.", "A girl is dropping a sack."), ("One.", "Two, and three more words.")]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned cell with its encoder."""
    base = tmp_path_factory.mktemp("course")
    data = write_course_files(base / "data")
    run(base / "run", data, heads=["baseline"], seeds=1, phases=["finetune"], tasks=["sst", "sts"], keep_encoder=True)
    return base / "run"


@pytest.fixture(scope="module")
def model(out: Path) -> Model:
    store = open_run(out, pytest.fail)
    return Loader(store, load_plugins(), torch.device("cpu")).load(one(store, "baseline", None, ""))


@pytest.fixture(scope="module")
def folder(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model"
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "export", "--run", out, "--head", "baseline", "--out", path) == 0
    return path


def test_the_same_answers_from_the_folder(model: Model, folder: Path) -> None:
    again = benchkit.load_exported(folder)
    assert again.notes == ()
    assert again.encoder.fingerprint == model.encoder.fingerprint
    assert again.predict("sst", SENTENCES) == model.predict("sst", SENTENCES)
    assert again.predict("sts", PAIRS) == model.predict("sts", PAIRS)
    assert again.predict("sts", PAIRS[:1]) == model.predict("sts", PAIRS)[:1]


def test_it_holds_what_it_says_and_no_pickle(folder: Path) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    encoder = {f"encoder/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")}
    assert files == {"README.md", "benchkit.json", "head.safetensors", *encoder}
    config = json.loads((folder / "benchkit.json").read_text("utf-8"))
    assert config["head"]["name"] == "baseline"
    assert [task["shape"]["name"] for task in config["tasks"]] == ["sst", "sts"]


def test_the_readme_s_example_runs_in_a_process_of_its_own(folder: Path, model: Model) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 15
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=folder,
        env={**os.environ, "BENCHKIT_PLUGINS": "baseline"},  # neither tasks nor the encoder's plugin
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = model.predict("sts", [("A man is eating.", "Someone is eating.")])
    assert str(answer.value) in done.stdout


def test_predict_reads_the_folder(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("predict", "--model", folder, "--task", "sts", "--format", "jsonl", *PAIRS[0])
    assert call(monkeypatch, *asked) == 0
    assert json.loads(capsys.readouterr().out) == model.predict("sts", PAIRS)[0].to_dict(["sentence1", "sentence2"])


def test_a_folder_that_is_there_is_left_alone(
    folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.stat().st_mtime_ns for path in folder.rglob("*"))
    assert call(monkeypatch, "export", "--run", out, "--head", "baseline", "--out", folder) == 2
    assert "is there already" in capsys.readouterr().err
    assert sorted(path.stat().st_mtime_ns for path in folder.rglob("*")) == before


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, model: Model, out: Path) -> None:
    def fail(folder: Path) -> None:
        raise UserError("no")

    record = one(open_run(out, pytest.fail), "baseline", None, "")
    with pytest.raises(UserError, match="no"):
        write_export(model, record, tmp_path / "model", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["benchkit.json", "head.safetensors", "encoder/model.safetensors"])
@pytest.mark.parametrize("how", ["gone", "cut", "changed"])
def test_what_is_damaged_is_refused(name: str, how: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    content = bytearray((copy / name).read_bytes())
    (copy / name).unlink()
    if how != "gone":
        # The last byte but three is the top one of a number, or an end of JSON.
        content = (
            content[: len(content) // 2] if how == "cut" else content[:-3] + bytes([content[-3] ^ 64]) + content[-2:]
        )
        (copy / name).write_bytes(content)
    with pytest.raises(UserError):
        benchkit.load_exported(copy)


def test_a_head_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCHKIT_PLUGINS", "cnn")
    with pytest.raises(UserError, match="unknown head 'baseline'"):
        benchkit.load_exported(folder)
