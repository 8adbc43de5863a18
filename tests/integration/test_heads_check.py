"""The conformance kit: a sound head passes every check, and every check fails for the head that has its fault."""

from __future__ import annotations

import dataclasses
import re
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner
from torch import nn

from benchkit.cli import cli
from benchkit.core.errors import UserError
from benchkit.core.features import Layers, Tokens
from benchkit.core.head import HeadSpec
from benchkit.testing import CHECKS, HeadContract, check_head


def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[path.stem] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wrong = _load(Path(__file__).with_name("wrong_heads.py"))
SLOW = {"imports", "search", "bf16", "compiles"}
BY_NAME = {check.name: check for check in CHECKS}


def spec_of(name: str, config: str = "Config", **changes: Any) -> HeadSpec:
    return HeadSpec(name.lower(), "A head.", getattr(wrong, name), getattr(wrong, config), **changes)


SOUND = {
    "pooled": spec_of("Sound"),
    "tokens": spec_of("SoundTokens", reads=Tokens),
    "layers": spec_of("SoundLayers", reads=Layers),
    "symmetric": spec_of("SoundSymmetric", symmetric=True),
}

# The check that must fail, the head, what the reason must say, and what else its fault breaks.
MUTANTS: list[tuple[str, HeadSpec, str, set[str]]] = [
    ("described", dataclasses.replace(SOUND["pooled"], summary=""), "no summary", set()),
    ("described", spec_of("Sound", "OpenConfig"), "not a frozen dataclass", set()),
    ("described", spec_of("Sound", loss=lambda config, shape: None), "not a function, a loss's name or", set()),
    ("described", spec_of("Sound", "OffRangeConfig"), "default of width, 8, is not from 16 to 32", set()),
    ("reads", spec_of("ReadsTokens"), "given the Pooled that it declares.*no attribute 'tokens'", {"*"}),
    ("reads", spec_of("ReadsTokensIfThere"), "where it could read more", set()),
    ("shapes", spec_of("Flat"), r"unseen_score: gave \(1,\), not \(1, 1\)", {"alone"}),
    ("shapes", spec_of("NoBatchOfOne"), "not finite", {"company"}),
    ("alone", spec_of("NeedsAFirstTask"), "with unseen_binary as its only task.*KeyError", set()),
    ("scores", spec_of("Unbounded"), "leave the label range, -1 to 1", set()),
    ("company", spec_of("Leaky"), "moves by .* with the others in its batch", set()),
    ("padding", spec_of("CountsPadding", reads=Tokens), "positions of padding", set()),
    ("segments", spec_of("FirstSentenceOnly"), "does not depend on the second sentence", set()),
    ("symmetric", spec_of("Sound", symmetric=True), "when the sentences change places", set()),
    ("untouched", spec_of("InPlace"), r"changed features\.pooled in place", set()),
    ("reaches", spec_of("Detached"), "no gradient reaches the features", set()),
    ("gradients", spec_of("Idle"), r"no task gives a gradient to spare\.bias, spare\.weight", set()),
    ("trunk", spec_of("Sound", trunk="stem"), "no module 'stem'", set()),
    ("trunk", spec_of("TrunkOfSome"), "unseen_class gives the trunk 'trunk' no gradient", set()),
    ("seed", spec_of("NumpyWeights"), "NumPy's or Python's", set()),
    ("seed", spec_of("PythonDropout"), "NumPy's or Python's", set()),
    ("seed", spec_of("OwnGenerator"), "initial weights differ from run to run", set()),
    ("seed", spec_of("OwnDropout"), "outputs in training differ", set()),
    ("seed", spec_of("SeedsItself"), "building it seeds torch's global generator", set()),
    ("seed", spec_of("DropoutAlwaysOn"), "random in eval mode", {"company"}),
    ("state", spec_of("HiddenState"), "same state_dict gives something else", set()),
    ("config", spec_of("Sound", "LossyConfig"), "cannot be written as JSON", set()),
    ("search", spec_of("NeedsAnEvenWidth", "WideConfig"), "width=1 raised ValueError: the width must be even", set()),
    ("search", spec_of("Sound", "PickyConfig"), "width=64 raised UserError: .*at most 32", {"config"}),
    ("bf16", spec_of("Fp32Only"), "with weights and features in bf16", set()),
    ("bf16", spec_of("Rough"), "away from fp32's", set()),
    ("compiles", spec_of("OtherwiseCompiled"), "the output moves by .* when it is compiled", set()),
]


@pytest.mark.parametrize("spec", SOUND.values(), ids=SOUND.keys())
class TestSoundHeads(HeadContract):
    """The contract itself, on heads that are right."""


@pytest.mark.parametrize(
    ("name", "spec", "reason", "others"), MUTANTS, ids=[f"{name}-{spec.name}" for name, spec, *_ in MUTANTS]
)
def test_a_fault_is_found_by_its_check_and_by_no_other(
    name: str, spec: HeadSpec, reason: str, others: set[str]
) -> None:
    verdict = BY_NAME[name](spec)
    assert verdict.status == "failed"
    assert re.search(reason, verdict.reason)
    assert "\n" not in verdict.reason
    if others != {"*"}:
        quick = [check(spec) for check in CHECKS if check.name not in SLOW]
        assert {each.check for each in quick if each.status == "failed"} - {name} == others


def test_a_gate_that_starts_shut_is_no_fault() -> None:
    assert BY_NAME["gradients"](spec_of("GatedShut")).status == "ok"


def test_every_check_has_a_mutant() -> None:
    assert {name for name, *_ in MUTANTS} | {"imports"} == set(BY_NAME)


def test_every_check_is_a_test_of_the_contract() -> None:
    tests = {name.removeprefix("test_"): value for name, value in vars(HeadContract).items() if name[:5] == "test_"}
    assert list(tests) == list(BY_NAME)
    assert all(each.description and each.description[0].isupper() for each in CHECKS)


def test_what_does_not_concern_a_head_is_skipped() -> None:
    skipped = {each.name: each(SOUND["pooled"]) for each in (BY_NAME["padding"], BY_NAME["symmetric"])}
    assert {each.status for each in skipped.values()} == {"skipped"}
    assert "reads Pooled" in skipped["padding"].reason


def test_a_head_that_cannot_be_built_fails_and_raises_nothing() -> None:
    class Exits(nn.Module):
        def __init__(self, *_: object) -> None:
            sys.exit("no")

    verdicts = list(check_head(HeadSpec("exits", "Leaves.", Exits, wrong.Config)))
    assert len(verdicts) == len(CHECKS)
    failed = {each.check: each.reason for each in verdicts if each.status == "failed"}
    assert failed["reads"] == "building it with the default config raised SystemExit: no"
    assert failed["shapes"] == "the same SystemExit as under reads"


# What a module does at import, and what the check says of it.
AT_IMPORT = {
    "print('training…')": "prints 'training…'",
    "import torch\ntorch.manual_seed(0)": "changes torch's global generator",
    "import numpy\nnumpy.random.rand()": "changes NumPy's global generator",
    "import random\nrandom.seed(1)": "changes Python's global generator",
    "import threading\nthreading.Thread(target=print).start()": "starts a thread",
    "import subprocess\nsubprocess.run(['true'])": "starts a process",
    "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9))\nexcept OSError:\n    pass": "network",
    "import os\nopen(os.devnull, 'w').close()": "writes to /dev/null",
    "import torch\ntorch.set_default_dtype(torch.float64)": "changes torch's default type",
    "import logging\nlogging.basicConfig()": "changes the logging set-up",
    "import time\ntime.sleep(1.1)": r"works for 1\.\d s",
}


@pytest.mark.parametrize(("code", "complaint"), AT_IMPORT.items(), ids=AT_IMPORT.values())
def test_work_at_import_is_found(tmp_path: Path, code: str, complaint: str) -> None:
    verdict = BY_NAME["imports"](_spec_in(tmp_path / "busy.py", code))
    assert verdict.status == "failed"
    assert re.search(complaint, verdict.reason)


def test_what_a_library_does_at_its_own_import_is_not_held_against_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "chatty_library.py").write_text("import time\nprint('hello')\ntime.sleep(1.1)\n")
    monkeypatch.syspath_prepend(tmp_path / "library")
    assert BY_NAME["imports"](_spec_in(tmp_path / "quiet.py", "import chatty_library")).status == "ok"


def test_a_packages_own_init_is_the_plugins_doing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "busy_package").mkdir()
    (tmp_path / "busy_package" / "__init__.py").write_text("")
    (tmp_path / "busy_package" / "heads.py").write_text("from . import other\nclass Head:\n    pass\n")
    (tmp_path / "busy_package" / "other.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    spec = HeadSpec("busy", "A head.", import_module("busy_package.heads").Head, wrong.Config)
    for name in ("__init__", "other"):
        (tmp_path / "busy_package" / f"{name}.py").write_text(f"print({name!r})\n")
    assert re.search("prints '__init__', prints 'other'", BY_NAME["imports"](spec).reason)


def test_a_module_that_cannot_be_imported_afresh_says_so(tmp_path: Path) -> None:
    spec = _spec_in(tmp_path / "once.py", "")
    (tmp_path / "once.py").write_text("raise RuntimeError('only once')\n")
    assert "raises RuntimeError: only once" in BY_NAME["imports"](spec).reason


def test_a_module_that_ends_the_process_is_found(tmp_path: Path) -> None:
    verdict = BY_NAME["imports"](_spec_in(tmp_path / "last.py", "import os\nos._exit(0)"))
    assert "ends the process" in verdict.reason


def _spec_in(path: Path, code: str) -> HeadSpec:
    """A head of a class in `path`, whose module does `code` when it is imported; not here, but by the check."""
    path.write_text("class Head:\n    pass\n")
    head = _load(path).Head
    path.write_text(f"{code}\nclass Head:\n    pass\n")
    return HeadSpec("busy", "A head.", head, wrong.Config)


HEAD_FILE = """
import sys
sys.path.insert(0, {folder!r})
from wrong_heads import Config, {name}
from benchkit import HeadSpec, hookimpl

@hookimpl
def benchkit_heads():
    return [HeadSpec("mine", "A head of mine.", {name}, Config)]
"""


@pytest.mark.parametrize(("name", "code"), [("Sound", 0), ("Idle", 1)])
def test_the_command_prints_a_verdict_a_line(tmp_path: Path, name: str, code: int) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD_FILE.format(folder=str(Path(__file__).parent), name=name))
    done = CliRunner().invoke(cli, ["heads", "check", str(file)])
    lines = done.output.splitlines()
    assert done.exit_code == code, done.output
    assert lines[0] == "mine  A head of mine."
    marks = [line.split()[:2] for line in lines if line[2:3] in {"✓", "✗", "–"}]  # others go on from the line above
    assert [name for _, name in marks] == list(BY_NAME)
    assert [name for mark, name in marks if mark == "✗"] == (["gradients"] if code else [])
    assert ("1 failed" in done.output) == bool(code)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("cnnn", "did you mean 'cnn'"), ("none.py", "no head file at"), ("empty.py", "offers no head")],
)
def test_a_head_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.py").write_text("")
    caught = CliRunner().invoke(cli, ["heads", "check", argument]).exception
    assert isinstance(caught, UserError)
    assert message in str(caught)
