"""`benchkit doctor`: says what is there, and works where what it looks at does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from benchkit.core.plugins import load_plugins
from benchkit.encoder import load_encoder, save_encoder
from benchkit.experiment.workspace import open_encoder
from benchkit.inspect import doctor as examine
from benchkit.inspect import doctor as probe
from benchkit.inspect.doctor import Finding
from benchkit.inspect.heads import available


def doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchkit", "doctor", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_all_is_well_here(tmp_path: Path) -> None:
    done = doctor("--json", BENCHKIT_CACHE=str(tmp_path), BENCHKIT_DATA="", BENCHKIT_WEIGHTS="")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(each["section"], each["name"]): each for each in json.loads(done.stdout)}
    assert found["packages", "torch"]["state"] == "ok"
    assert "precision auto is" in found["devices", "cpu"]["value"]
    assert "sst, quora, sts" in found["plugins", "cs224n"]["value"]
    assert found["data", "BENCHKIT_DATA"]["state"] == found["weights", "BENCHKIT_WEIGHTS"]["state"] == "note"
    assert str(tmp_path) in found["cache", "root"]["value"]
    assert ("extras", "plots") in found
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "part"),
    [
        (
            "raise ImportError('libcudart.so.12: cannot open\\nshared object')",
            "does not load: ImportError: libcudart.so.12",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "killed the process that tried it: SIGSEGV"),
    ],
)
def test_a_broken_torch_is_said_not_suffered(source: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(source)
    done = doctor(PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", BENCHKIT_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert part in " ".join(done.stdout.split())
    assert "What to repair" in done.stdout
    assert str(tmp_path) in done.stdout  # the cache is told of all the same
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_data_and_weights_are_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner" / "sst").mkdir(parents=True)
    for split in ("train", "dev"):
        (tmp_path / "inner" / "sst" / f"{split}.tsv").write_text("id\tsentence\tlabel\n1\tgood\t3\n")
    monkeypatch.setenv("BENCHKIT_DATA", str(tmp_path))
    assert [each.value for each in probe.data()] == [str(tmp_path), f"--data {tmp_path / 'inner'} has sst"]
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{")
    monkeypatch.setenv("BENCHKIT_WEIGHTS", str(tmp_path))
    first, second = probe.weights()
    assert (first.state, second.name, second.state) == ("ok", "small", "note")
    monkeypatch.setenv("BENCHKIT_WEIGHTS", str(tmp_path / "gone"))
    (only,) = probe.weights()
    assert (only.state, only.section) == ("broken", "weights")


def test_weights_in_every_layout_that_can_be_loaded_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file, several files with an index, and the old layout of sentence-transformers."""
    encoder = open_encoder("demo", load_plugins())
    for name in ("one", "several", "old/0_Transformer"):
        save_encoder(encoder, tmp_path / name)
    tensors = list(load_file(tmp_path / "several" / "model.safetensors").items())
    (tmp_path / "several" / "model.safetensors").unlink()
    places: dict[str, str] = {}
    for file, part in (("1.safetensors", tensors[:9]), ("2.safetensors", tensors[9:])):
        save_file(dict(part), tmp_path / "several" / file)
        places |= {name: file for name, _ in part}
    (tmp_path / "several" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (tmp_path / "no encoder").mkdir()
    monkeypatch.setenv("BENCHKIT_WEIGHTS", str(tmp_path))
    _, *found = probe.weights()
    assert [(each.name, each.state) for each in found] == [("old", "ok"), ("one", "ok"), ("several", "ok")]
    assert len({each.value for each in found}) == 1
    parameters = {name: count for name, _, count, _ in available(load_plugins())}
    millions = f"{encoder.parameters / 1e6:.1f} M"
    for name in ("old", "one", "several"):
        assert (parameters[name], load_encoder(tmp_path / name).parameters) == (millions, encoder.parameters)
    (tmp_path / "several" / "2.safetensors").unlink()
    assert {each.name: each.state for each in probe.weights()}["several"] == "note"


def test_a_cache_that_cannot_be_written_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENCHKIT_CACHE", str(tmp_path / "file" / "cache"))
    (only,) = examine.cache()
    assert only.state == "broken"


def test_an_extra_that_is_not_installed_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "required", lambda extra: {"there": "1.0", "gone": "" if extra == "plots" else "1"})
    found = {each.name: each for each in examine.extras()}
    assert found["plots"] == Finding(
        "extras", "plots", "pictures of curves and studies: gone not installed", "note", "pip install 'benchkit[plots]'"
    )
    assert found["tune"].state == "ok"


def test_what_is_required_comes_from_the_package_s_own_metadata() -> None:
    assert {"torch", "numpy", "click"} <= probe.required().keys()
    assert "matplotlib" not in probe.required()
    assert probe.required("plots").keys() == {"matplotlib"}
