"""`benchkit explain`: the parts of a cell's key, and what sets two cells apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.cli import Call, assert_one_line, caller
from helpers.runs import flags, run

from benchkit.core.record import ABSENT, Change, Parts, changes, describe

OWN_HEAD = """
from dataclasses import dataclass
from benchkit import HeadSpec, hookimpl, option
from benchkit_baseline import Baseline, BaselineConfig

class Own(Baseline):
    pass

@hookimpl
def benchkit_heads():
    return [HeadSpec("own", "", Own, BaselineConfig)]
"""


@pytest.fixture
def benchkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run's folder, and the keys of two cells in it that differ in one field."""
    out = tmp_path_factory.mktemp("run")
    keys = [run(out, settings={"pretrain.learning_rate": rate}).cells[0].key for rate in (1e-3, 5e-4)]
    return out, keys


def test_changes_go_down_to_the_field() -> None:
    a = {"protocol": {"epochs": 3, "clip": 0.0}, "tasks": [{"name": "sst", "loss": "ce"}], "seed": 0}
    b = {"protocol": {"epochs": 5}, "tasks": [{"name": "sts", "loss": "mse"}, {"name": "sst", "loss": "ce"}], "seed": 0}
    assert changes(a, b) == [
        Change(("protocol", "epochs"), 3, 5),
        Change(("protocol", "clip"), 0.0, ABSENT),
        Change(("tasks", "order"), ["sst"], ["sts", "sst"]),
        Change(("tasks", "sts"), ABSENT, {"loss": "mse"}),
    ]
    assert changes(a, a) == []


def test_another_head_is_one_change_and_not_all_of_its_config() -> None:
    a, b = ({"head": {"name": name, "config": {name: 1}, "source": name}} for name in ("cnn", "rnn"))
    assert changes(a, b) == [Change(("head", "name"), "cnn", "rnn")]


def test_a_changed_source_names_its_files() -> None:
    change = Change(("tasks", "sst", "source"), "a", "b")
    a = Parts({}, {"tasks.sst": {"x.py": "1", "y.py": "2", "z.py": "3"}})
    b = Parts({}, {"tasks.sst": {"x.py": "1", "y.py": "9", "new.py": "4"}})
    assert describe(change, a, b) == "source of task sst: y.py changed, z.py is gone, new.py is new"
    assert "does not say which file" in describe(change, a, Parts({}))


def test_data_and_encoder_by_name_and_by_content() -> None:
    a = Parts({"encoder": "0" * 64}, splits={"sst.dev": "10 rows of dev.tsv"}, encoder="one")
    b = Parts({"encoder": "1" * 64}, splits={"sst.dev": "20 rows of dev.tsv"}, encoder="two")
    data = Change(("data", "sst", "dev"), "ab" * 32, "cd" * 32)
    assert describe(data, a, b) == "data.sst.dev: 10 rows of dev.tsv → 20 rows of dev.tsv"
    assert describe(data, a, a) == "data.sst.dev: other content (abababababab → cdcdcdcdcdcd) in 10 rows of dev.tsv"
    assert describe(Change(("encoder",), 0, 1), a, b) == "encoder: one (000000000000) → two (111111111111)"


def test_two_cells_differ_in_one_field(benchkit: Call, stored: tuple[Path, list[str]]) -> None:
    out, keys = stored
    done = benchkit("explain", *keys, "--out", out)
    assert done.returncode == 0
    assert "protocol.pretrain.learning_rate: 0.001 → 0.0005" in done.stdout
    assert done.stdout.count("→") == 1
    done = benchkit("explain", out / "cells" / keys[0], keys[0][:10], "--out", out)
    assert "one and the same cell" in done.stdout


def test_a_single_cell_is_compared_with_today(benchkit: Call, stored: tuple[Path, list[str]]) -> None:
    out, keys = stored
    done = benchkit("explain", keys[0][:10], "--out", out)
    assert "the same request reuses it" in done.stdout
    for part in ("head ", "protocol ", "tasks ", "data ", "encoder ", "seed ", "engine ", "benchkit_baseline.py"):
        assert part in done.stdout
    assert f"{keys[1]}, differs in:\n  protocol.pretrain.learning_rate: 0.001 → 0.0005" in done.stdout


def test_a_changed_head_file_is_named(benchkit: Call, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN_HEAD)
    (record,) = run(tmp_path, "own", head_files=[file]).cells
    again = ("explain", record.key, "--out", tmp_path, "--head-file", file)
    assert "reuses it" in benchkit(*again).stdout
    file.write_text(OWN_HEAD + "OTHER = 1\n")
    done = benchkit(*again)
    assert "since this changed:\n  source of head: own.py changed\n" in done.stdout
    assert "Not looked at" not in done.stdout
    done = benchkit(*again[:4])
    assert "Not looked at:\n  head, tasks: unknown head 'own'" in done.stdout


def test_a_dry_run_says_why_a_cell_is_not_reused(benchkit: Call, stored: tuple[Path, list[str]]) -> None:
    out, keys = stored
    same = benchkit("run", "--dry-run", "--heads", "baseline", "--seeds", 1, "--phases", "pretrain", "--out", out,
                    *flags(**{"pretrain.learning_rate": 1e-3, "baseline.dropout": 0.1}))  # fmt: skip
    assert f"unlike the stored {keys[0]} in head.config.dropout: 0.3 → 0.1" in same.stdout


def test_an_older_record_is_still_read(benchkit: Call, stored: tuple[Path, list[str]], tmp_path: Path) -> None:
    """One without the hashes of files: what changed is told, the file is not."""
    folder = _copy(stored, tmp_path)
    record = json.loads((folder / "record.json").read_text())
    del record["sources"]
    record["identity"]["engine"]["source"] = "0" * 64
    (folder / "record.json").write_text(json.dumps(record))
    done = benchkit("explain", folder)
    assert "source of engine: changed (an older record does not say which file)" in done.stdout
    record["schema"] = 0
    (folder / "record.json").write_text(json.dumps(record))
    done = benchkit("explain", folder)
    assert done.returncode == 2
    assert "record of schema 0" in done.stderr


def test_a_failed_cell_says_that_it_is_tried_again(benchkit: Call, tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        OWN_HEAD.replace("    pass", "    def forward(self, features, task):\n        raise KeyError('no')")
    )
    (record,) = run(tmp_path, "own", head_files=[file]).cells
    assert record.status == "failed"
    done = benchkit("explain", record.key, "--out", tmp_path, "--head-file", file)
    assert "would try it again, since it failed" in done.stdout
    assert "raised KeyError" in done.stdout


def test_what_is_no_cell(benchkit: Call, stored: tuple[Path, list[str]], tmp_path: Path) -> None:
    out, keys = stored
    assert_one_line(benchkit("explain", "zzz", "--out", out), "no cell 'zzz'", "--out DIR")
    assert_one_line(benchkit("explain", "zzz", "--out", tmp_path / "no"), "no folder", "--out")
    assert_one_line(benchkit("explain", out), "the folder of a run", *keys)
    assert_one_line(benchkit("explain", tmp_path), "is no cell")
    assert_one_line(benchkit("explain", ""), "is empty")
    (tmp_path / "cells" / "abc").mkdir(parents=True)
    (tmp_path / "cells" / "abd").mkdir(parents=True)
    (tmp_path / "cells" / "abd" / "checkpoint.pt").touch()
    assert_one_line(benchkit("explain", "ab", "--out", tmp_path), "may be", "abc", "abd")
    assert_one_line(benchkit("explain", "abd", "--out", tmp_path), "no record yet")


def _copy(stored: tuple[Path, list[str]], to: Path) -> Path:
    out, keys = stored
    folder = to / "cells" / keys[0]
    folder.mkdir(parents=True)
    for file in (out / "cells" / keys[0]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
