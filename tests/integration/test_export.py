"""An exported folder is the model: the same bits, in a process that has only the folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.course import call, run, write_course_files
from safetensors.torch import load_file, save_file

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
    run(
        base / "run", data, heads=["baseline"], seeds=1, phases=["finetune"], tasks=["sst", "sts"], encoder_dtype="fp32"
    )
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


def _changed(values: dict[str, Any], path: tuple[str | int, ...], value: object) -> bytes:
    """`benchkit.json` with one value replaced, or removed where `value` is `...`."""
    inner: Any = values
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(values).encode()


WRONG: list[tuple[tuple[str | int, ...], object]] = [
    (("name",), ...),
    (("name",), 7),
    (("head",), []),
    (("head", "sha256"), ...),
    (("head", "config"), [1]),
    (("head", "config", "hidden"), "much"),
    (("encoder",), None),
    (("features", "pooling"), "sum"),
    (("features", "layers"), "all"),
    (("features", "layers"), [99]),
    (("features", "precision"), "fp8"),
    (("features", "max_length"), 1.5),
    (("tuned",), "yes"),
    (("threads",), 0),
    (("threads",), 10**30),
    (("tasks",), {}),
    (("tasks",), []),
    (("tasks", 0, "shape", "classes"), 3),
    (("tasks", 0, "shape", "segments"), 2),
    (("tasks", 0, "shape", "low"), float("nan")),
    (("tasks", 0, "texts"), "sentence"),
    (("tasks", 0, "classes"), ...),
    (("tasks", 0, "aliases"), {"sentence": "text"}),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[f"{'.'.join(map(str, p))}={v}" for p, v in WRONG])
def test_a_config_of_another_form_is_one_line(
    path: tuple[str | int, ...], value: object, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    values = json.loads((folder / "benchkit.json").read_text("utf-8"))
    (tmp_path / "model" / "benchkit.json").write_bytes(_changed(values, path, value))
    with pytest.raises(UserError) as caught:
        benchkit.load_exported(tmp_path / "model").predict("sst", SENTENCES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["benchkit.json", "encoder/config.json", "encoder/tokenizer.json"])
@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"format": 1, "a": ' + b'{"a":' * 200_000, b"[]", b"7", b"\xff"])
def test_json_that_is_nested_too_deeply_or_no_object_is_one_line(
    name: str, content: bytes, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        benchkit.load_exported(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_are_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    weights = load_file(folder / "head.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "model" / "head.safetensors")
    values = json.loads((folder / "benchkit.json").read_text("utf-8"))
    digest = hashlib.sha256((tmp_path / "model" / "head.safetensors").read_bytes()).hexdigest()
    (tmp_path / "model" / "benchkit.json").write_bytes(_changed(values, ("head", "sha256"), digest))
    with pytest.raises(UserError, match="NaN or infinity"):
        benchkit.load_exported(tmp_path / "model")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("command", ["export", "convert"])
def test_modes_are_those_that_the_umask_says(
    command: str, umask: int, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(umask)
    try:
        if command == "export":
            call(monkeypatch, "export", "--run", out, "--head", "baseline", "--out", tmp_path / "new")
        else:
            call(monkeypatch, "encoders", "convert", "demo", tmp_path / "new")
    finally:
        os.umask(before)
    for path in (tmp_path / "new", *(tmp_path / "new").rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask, path


@pytest.mark.parametrize("limit", [100, 20_000])
@pytest.mark.parametrize("command", ["export", "convert"])
def test_a_disk_that_is_full_is_one_line_and_nothing_is_left(
    command: str, limit: int, out: Path, tmp_path: Path
) -> None:
    asked = {
        "export": ("export", "--run", out, "--head", "baseline", "--out", tmp_path / "new"),
        "convert": ("encoders", "convert", "demo", tmp_path / "new"),
    }[command]
    done = subprocess.run(
        [sys.executable, "-B", "-m", "benchkit", *map(str, asked)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"benchkit: error: cannot write {tmp_path / 'new'}: ")
    assert list(tmp_path.iterdir()) == []
