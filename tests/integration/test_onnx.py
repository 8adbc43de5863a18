"""`benchkit export --onnx`: the same numbers without benchkit or torch, or one line that says why not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.course import call, run, write_course_files

from benchkit.core.plugins import load_plugins
from benchkit.predict.model import Loader, one, open_run

SENTENCES = ["This is a superb picture.", "A bad movie, from start to finish; nobody liked it.", "Good."]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("course")
    heads = ["baseline", "recurrent", "siamese", "token-cnn", "token-rnn"]
    data = write_course_files(base / "data")
    run(base / "run", data, heads=heads, seeds=1, phases=["pretrain"], tasks=["sst", "sts"], precision="fp32")
    return base / "run"


def onnx_installed() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)


def test_onnx_without_the_extra_is_one_line(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert call(monkeypatch, "export", "--run", out, "--head", "baseline", "--out", tmp_path / "m", "--onnx") == 2
    assert "pip install 'benchkit[onnx]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", ["baseline", "recurrent", "siamese", "token-cnn"])
def test_onnx_gives_the_same_numbers_whatever_the_batch_and_the_length(
    head: str, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx_installed()
    assert call(monkeypatch, "export", "--run", out, "--head", head, "--out", tmp_path / "m", "--onnx") == 0
    assert [line.split()[0] for line in capfd.readouterr().err.splitlines()[:2]] == ["onnx/sst.onnx:", "onnx/sts.onnx:"]
    assert sorted(path.name for path in (tmp_path / "m" / "onnx").iterdir()) == ["sst.onnx", "sts.onnx"]
    store = open_run(out, pytest.fail)
    model = Loader(store, load_plugins(), torch.device("cpu")).load(one(store, head, None, ""))
    blocks = re.findall(r"```python\n(.*?)```", (tmp_path / "m" / "README.md").read_text("utf-8"), re.DOTALL)
    for examples in (SENTENCES, SENTENCES[:1], SENTENCES[1:2], SENTENCES * 5):
        code = re.sub(r"^examples = .*$", f"examples = {examples!r}", blocks[1], flags=re.MULTILINE)
        code = code.replace("print(session.run(None, feed)[0])", "found = session.run(None, feed)[0]")
        names: dict[str, object] = {}
        monkeypatch.chdir(tmp_path / "m")
        exec(code, names)
        wanted = [list((answer.probabilities or {}).values()) for answer in model.predict("sst", examples)]
        np.testing.assert_allclose(np.asarray(names["found"]), wanted, atol=1e-4)


def test_a_head_that_has_no_onnx_form_is_one_line_and_nothing_is_written(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx_installed()
    assert call(monkeypatch, "export", "--run", out, "--head", "token-rnn", "--out", tmp_path / "m", "--onnx") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("benchkit: error: token-rnn seed 0 cannot be written as ONNX, for sst: ")
    assert not (tmp_path / "m").exists()
