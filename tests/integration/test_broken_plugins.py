"""Plugins that misbehave, each in its own way: whoever does not ask for them does not notice, and `plugins` tells."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchkit.cli import main

HEAD = """
from dataclasses import dataclass
from benchkit import HeadSpec, hookimpl
from torch import nn

@dataclass(frozen=True)
class Config:
    pass

class Net(nn.Module):
    def __init__(self, config, hidden, tasks):
        super().__init__()
        self.trunk = nn.Linear(hidden, 7)

    def forward(self, features, task):
        return self.trunk(features.pooled[:, 0])

"""
GOOD = HEAD + "@hookimpl\ndef benchkit_heads():\n    return [HeadSpec('odd', 'A head.', Net, Config)]\n"
BROKEN = {
    "raises at import": ("raise RuntimeError('not today')", "RuntimeError: not today"),
    "exits at import": ("import sys; sys.exit('not today')", "SystemExit: not today"),
    "raises in its hook": (
        HEAD + "@hookimpl\ndef benchkit_heads():\n    raise OSError('no disk')\n",
        "OSError: no disk",
    ),
    "exits in its hook": (
        HEAD + "@hookimpl\ndef benchkit_heads():\n    raise SystemExit('no disk')\n",
        "SystemExit: no disk",
    ),
}
STOPPING = {
    "a duplicate name": (GOOD.replace("'odd'", "'cnn'"), ["'cnn' comes from both benchkit 0", "odd-heads 1.2"]),
    "a misspelt hook": (
        GOOD.replace("benchkit_heads", "benchkit_head"),
        ["odd-heads 1.2", "'benchkit_head'", "did you mean 'benchkit_heads'"],
    ),
}
SMALL = [f"{task}.{split}_size=40" for task in ("sst", "quora", "sts") for split in ("train", "dev", "test")]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


Call = Callable[..., Done]


@pytest.fixture
def benchkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """The command line as its entry point runs it, in this process."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["benchkit", *arguments])
        sys.modules.pop("tiny_odd", None)
        code = 0
        try:
            main()
        except SystemExit as leave:
            code = int(leave.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    yield call
    sys.modules.pop("tiny_odd", None)


def install(folder: Path, source: str) -> None:
    """The distribution odd-heads 1.2, with the entry point `odd`."""
    (folder / "tiny_odd.py").write_text(source, encoding="utf-8")
    info = folder / "tiny_odd-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-heads\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[benchkit]\nodd = tiny_odd\n", encoding="utf-8")
    importlib.invalidate_caches()


def states(benchkit: Call, *options: str) -> dict[str, str]:
    done = benchkit("plugins", "--json", *options)
    assert done.code == 0, done.err
    return {each["name"]: each["state"] for each in json.loads(done.out)}


def run(benchkit: Call, heads: str) -> Done:
    sizes = [option for field in (*SMALL, "pretrain.epochs=1") for option in ("--set", field)]
    return benchkit(
        "run", "--heads", heads, "--phases", "pretrain", "--seeds", "1", "--jobs", "1", "--out", "out", *sizes
    )


@pytest.mark.parametrize(("source", "error"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_shown_with_its_error_and_nothing_else_is(
    benchkit: Call, tmp_path: Path, source: str, error: str
) -> None:
    install(tmp_path, source)
    assert benchkit("--help").code == 0
    assert {name for name, state in states(benchkit).items() if state != "ok"} == {"odd"}
    shown = benchkit("plugins")
    assert f"odd (odd-heads 1.2): {error}" in shown.out
    assert "tiny_odd.py" in shown.out
    listed = benchkit("heads")
    assert listed.code == 0
    assert "baseline" in listed.out
    assert error in listed.out
    asked = benchkit("heads", "show", "odd")
    assert asked.code == 2
    assert error in asked.err
    assert "unknown head 'odd'" in asked.err
    assert asked.err.count("\n") == 1


def test_a_broken_plugin_does_not_disturb_a_run(benchkit: Call, tmp_path: Path) -> None:
    install(tmp_path, BROKEN["exits at import"][0])
    done = run(benchkit, "baseline")
    assert done.code == 0, done.err
    assert "baseline" in done.out
    assert run(benchkit, "odd").code == 2


@pytest.mark.parametrize(("source", "culprits"), STOPPING.values(), ids=STOPPING.keys())
def test_a_clash_stops_everything_but_the_list(
    benchkit: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, culprits: list[str]
) -> None:
    install(tmp_path, source)
    assert benchkit("--help").code == 0
    for command in (["heads"], ["heads", "show", "baseline"], ["run", "--heads", "baseline", "--dry-run"]):
        done = benchkit(*command)
        assert done.code == 2
        assert all(culprit in done.err for culprit in culprits)
        assert done.err.count("\n") == 1
    assert {name for name, state in states(benchkit).items() if state != "ok"} == {"odd"}
    listed = " ".join(benchkit("plugins").out.split())
    assert all(culprit in listed for culprit in culprits)
    monkeypatch.setenv("BENCHKIT_PLUGINS", "baseline,cs224n,demo,cnn")
    assert benchkit("heads").code == 0
    assert "odd" not in states(benchkit)
    left_out = " ".join(benchkit("plugins").out.split()).partition("leaves out: ")[2]
    assert "odd" in left_out.replace(",", " ").split()


def test_a_head_of_the_wrong_shape_fails_alone(benchkit: Call, tmp_path: Path) -> None:
    install(tmp_path, GOOD)
    assert set(states(benchkit).values()) == {"ok"}, "its plugin is sound"
    assert "odd-heads 1.2" in benchkit("heads").out
    shown = benchkit("heads", "show", "odd")
    assert (shown.code, shown.err) == (
        2,
        "benchkit: error: head 'odd' returns (3, 7) for 3 examples of 'sst', not (3, 5)\n",
    )
    done = run(benchkit, "baseline,odd")
    assert done.code == 1
    assert "odd seed 0" in done.err
    assert "must return a tensor" in done.err
    assert "baseline seed 0: failed" not in done.err


def test_a_head_that_cannot_be_built_is_listed(benchkit: Call, tmp_path: Path) -> None:
    install(tmp_path, GOOD.replace("nn.Linear(hidden, 7)", "nn.Linear(hidden, -7)"))
    listed = benchkit("heads")
    assert listed.code == 0
    assert "odd (odd-heads 1.2) cannot be built: RuntimeError" in listed.out
    assert "111,220" in listed.out
    shown = benchkit("heads", "show", "odd")
    assert shown.code == 2
    assert "head 'odd' cannot be built" in shown.err


def test_a_file_that_does_not_load_is_listed_too(benchkit: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import a_module_that_is_not_there", "utf-8")
    assert states(benchkit, "--head-file", "mine.py")["mine"] == "broken"
    assert "ModuleNotFoundError" in benchkit("plugins", "--head-file", "mine.py").out
    assert benchkit("heads", "--head-file", "mine.py").code == 2
