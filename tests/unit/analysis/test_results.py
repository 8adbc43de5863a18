"""Runs read back from disk: what belongs together, what is told apart, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.cells import SIZES, TASKS, write_cells

from benchkit.analysis.results import Stored, protocol_fields, read_runs
from benchkit.core.errors import UserError

HEADS = {"cnn": 0.6, "baseline": 0.7}


def _read(*folders: Path) -> tuple[Stored, list[str]]:
    lines: list[str] = []
    return read_runs(folders, log=lines.append), lines


def _identity(**changes: Any) -> dict[str, Any]:
    return {"protocol": {"phases": ["pretrain"], "pretrain": {"epochs": 2, **changes}}}


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    written = {record.key: record for record in write_cells(tmp_path / "run", HEADS)}
    stored, lines = _read(tmp_path / "run")
    assert [(each.head, each.seed) for each in stored.records] == [
        (head, seed) for head in ("baseline", "cnn") for seed in range(3)
    ]
    assert all(each == written[each.key] for each in stored.records)
    assert list(stored.tasks) == list(TASKS)
    assert stored.folders[stored.records[0].key] == tmp_path / "run/cells" / stored.records[0].key
    assert stored.results.heads == ("baseline", "cnn")
    assert not lines[3:]  # one a task: these data are nowhere
    frame = stored.predictions(stored.records[0], "pretrain", "sst", "test")
    assert list(frame.columns) == ["label", "prediction", "score"]
    assert frame.index[5] == "test5"
    assert len(frame) == SIZES["test"]
    value = next(
        s.value for s in written[stored.records[0].key].phases[0].scores if (s.task, s.split) == ("sst", "test")
    )
    assert (frame["label"] == frame["prediction"]).mean() == value
    with pytest.raises(UserError, match="keeps the predictions of pretrain, not of finetune"):
        stored.predictions(stored.records[0], "finetune", "sst", "test")


def test_heads_come_in_the_order_of_the_run_s_table(tmp_path: Path) -> None:
    write_cells(tmp_path, HEADS)
    (tmp_path / "summary.csv").write_text("head,phase\ncnn,pretrain\nbaseline,pretrain\nmajority class,\n")
    assert list(_read(tmp_path)[0].heads) == ["cnn", "baseline"]


def test_seeds_of_two_folders_come_together_and_twins_count_once(tmp_path: Path) -> None:
    write_cells(tmp_path / "a", HEADS, (0, 1))
    write_cells(tmp_path / "b", HEADS, (1, 2))
    stored, _ = _read(tmp_path / "a", tmp_path / "b")
    assert [(each.head, each.seed) for each in stored.records][:3] == [
        ("baseline", 0),
        ("baseline", 1),
        ("baseline", 2),
    ]
    assert len(stored.records) == 6
    assert stored.notes == ()


def test_settings_are_told_apart_by_folder(tmp_path: Path) -> None:
    write_cells(tmp_path / "x/run", HEADS, identity=_identity())
    write_cells(tmp_path / "y/run", HEADS, identity=_identity(epochs=3))
    stored, _ = _read(tmp_path / "x/run", tmp_path / "y/run")
    assert list(stored.heads) == ["baseline @ x/run", "cnn @ x/run", "baseline @ y/run", "cnn @ y/run"]
    assert stored.heads["cnn @ y/run"] == "cnn"
    assert len(stored.notes) == 1
    assert "differ in pretrain.epochs (2 / 3)" in stored.notes[0]


def test_settings_in_one_folder_are_told_apart_by_field(tmp_path: Path) -> None:
    write_cells(tmp_path / "a", {"cnn": 0.6}, config={"dropout": 0.1})
    write_cells(tmp_path / "a", {"cnn": 0.6}, config={"dropout": 0.3})
    stored, _ = _read(tmp_path / "a")
    assert set(stored.heads) == {"cnn (dropout=0.1)", "cnn (dropout=0.3)"}
    write_cells(tmp_path / "b", {"cnn": 0.6}, identity=_identity(epochs=3))
    stored, _ = _read(tmp_path / "a", tmp_path / "b")
    assert set(stored.heads) == {"cnn @ a (dropout=0.1)", "cnn @ a (dropout=0.3)", "cnn @ b"}


def test_of_two_versions_in_one_folder_the_newest_counts(tmp_path: Path) -> None:
    old = write_cells(tmp_path, {"cnn": 0.6}, range(5), identity={"engine": {"benchkit": "0"}})
    for record in old:
        os.utime(tmp_path / "cells" / record.key / "record.json", (1, 1))
    write_cells(tmp_path, {"cnn": 0.6}, range(2), identity={"engine": {"benchkit": "1"}})
    stored, lines = _read(tmp_path)
    assert [each.identity["engine"]["benchkit"] for each in stored.records] == ["1", "1"]
    assert lines == ["left out 5 of 7 cells: the same was run again with another version of the code"]


def test_other_data_are_refused(tmp_path: Path) -> None:
    data = {name: {"train": "t", "dev": "d", "test": f"{name} test"} for name in TASKS}
    write_cells(tmp_path / "a", HEADS)
    write_cells(tmp_path / "b", HEADS, identity={"data": data})
    with pytest.raises(UserError, match="differ in the dev data of sst") as caught:
        _read(tmp_path / "a", tmp_path / "b")
    assert "report them one at a time" in str(caught.value)


def test_folders_without_a_usable_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        _read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no finished cell"):
        _read(tmp_path / "empty")
    (record,) = write_cells(tmp_path / "old", {"cnn": 0.6}, (0,))
    _edit(tmp_path / "old", record.key, schema=0)
    lines: list[str] = []
    with pytest.raises(UserError, match="none of the 1 cells"):
        read_runs([tmp_path / "old"], log=lines.append)
    assert "record of schema 0, this benchkit reads 1" in lines[0]


def test_what_is_damaged_or_unfinished_is_left_out_with_a_line(tmp_path: Path) -> None:
    records = write_cells(tmp_path, {"cnn": 0.6}, range(4))
    folders = [tmp_path / "cells" / record.key for record in records]
    (folders[0] / "record.json").write_text("{")
    (folders[1] / "predictions.parquet").write_bytes(b"")
    (folders[2] / "record.json").unlink()
    stored, lines = _read(tmp_path)
    assert [each.seed for each in stored.records] == [3]
    assert sum("is not usable" in line for line in lines) == 2
    assert sum("1 more cells were started and not finished" in line for line in lines) == 1


def _nested(record: dict[str, Any]) -> str:
    return '{"schema": 1, "identity": ' + "[" * 100_000


def _without(*path: str) -> Callable[[dict[str, Any]], str]:
    def change(record: dict[str, Any]) -> str:
        part = record
        for name in path[:-1]:
            part = part[name]
        del part[path[-1]]
        return json.dumps(record)

    return change


def _with(name: str, value: Any) -> Callable[[dict[str, Any]], str]:
    return lambda record: json.dumps({**record, name: value})


@pytest.mark.parametrize(
    "damage",
    [
        _nested,
        _without("identity", "head"),
        _without("identity", "tasks"),
        _without("phases"),
        _with("environment", None),
        _with("seed", "one"),
        _with("status", "odd"),
        _with("error", 3),
    ],
)
def test_one_damaged_record_is_one_line_and_the_others_count(
    damage: Callable[[dict[str, Any]], str], tmp_path: Path
) -> None:
    first, *_ = write_cells(tmp_path, {"cnn": 0.6}, range(3))
    file = tmp_path / "cells" / first.key / "record.json"
    file.write_text(damage(json.loads(file.read_text())))
    stored, lines = _read(tmp_path)
    assert [each.seed for each in stored.records] == [1, 2]
    assert sum(first.key in line for line in lines) == 1
    assert len(lines) == 1
    assert stored.results.seeds("cnn", "pretrain", "sst", "test")


def test_phases_are_read_from_both_forms_of_a_protocol() -> None:
    older = {"protocol": {"phases": ["warm", "tune"], "pooling": "cls", "warm": {"epochs": 2}, "tune": {"epochs": 3}}}
    newer = {"protocol": {"phases": [{"name": "warm", "epochs": 2}, {"name": "tune", "epochs": 3}], "pooling": "cls"}}
    assert protocol_fields(older) == protocol_fields(newer) == older["protocol"]


def test_settings_of_a_phase_name_heads_in_the_newer_form_too(tmp_path: Path) -> None:
    for epochs in (2, 3):
        identity = {"protocol": {"phases": [{"name": "pretrain", "trains": "head", "epochs": epochs}]}}
        write_cells(tmp_path, {"cnn": 0.6}, (0,), identity=identity)
    stored, _ = _read(tmp_path)
    assert set(stored.heads) == {"cnn (pretrain.epochs=2)", "cnn (pretrain.epochs=3)"}


def test_reading_and_comparing_takes_no_torch(tmp_path: Path) -> None:
    write_cells(tmp_path, HEADS)
    code = (
        "import sys; from benchkit.cli import cli; "
        f"[cli([command, {str(tmp_path)!r}], standalone_mode=False) for command in ('report', 'plan')]; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_task_that_is_not_installed_is_one_line(tmp_path: Path) -> None:
    write_cells(tmp_path, {"cnn": 0.6}, (0,), identity={"tasks": [{"name": "tone", "metric": "f1"}]})
    with pytest.raises(UserError, match=r"unknown task 'tone'.*--head-file"):
        _read(tmp_path)


def test_texts_are_found_again_or_not_given(tmp_path: Path) -> None:
    """The demo's own, as a run records them."""
    from helpers.cells import tasks

    from benchkit.data import load_data

    known = tasks()
    splits = load_data("demo", list(known.values()))
    digests = {name: {split: each.digest() for split, each in found.items()} for name, found in splits.items()}
    (record,) = write_cells(tmp_path / "run", {"cnn": 0.6}, (0,), identity={"data": digests})
    rows = {name: {split: {"rows": len(each)} for split, each in found.items()} for name, found in splits.items()}
    _edit(tmp_path / "run", record.key, data={"name": "demo", "splits": rows})
    stored, lines = _read(tmp_path / "run")
    texts = stored.texts("quora", "test")
    assert texts is not None
    assert texts[splits["quora"]["test"].ids[7]] == splits["quora"]["test"].texts[7]
    assert len(stored.controls) == 9
    assert lines == []

    shutil.rmtree(tmp_path / "run")
    digests["quora"]["test"] = "other"
    (record,) = write_cells(tmp_path / "run", {"cnn": 0.6}, (0,), identity={"data": digests})
    _edit(tmp_path / "run", record.key, data={"name": "demo", "splits": rows})
    stored, lines = _read(tmp_path / "run")
    assert stored.texts("quora", "test") is None
    assert len(stored.controls) == 6
    assert lines == ["no texts and controls of quora: demo has changed since the run (test)"]


def _edit(run: Path, key: str, **changes: Any) -> None:
    path = run / "cells" / key / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
