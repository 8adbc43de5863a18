"""JSON, Parquet and Arrow as tables, and packed files that unpack to too much."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from benchkit.core.errors import UserError
from benchkit.data import tables
from benchkit.data.tables import read_table


@pytest.mark.parametrize("suffix", ["jsonl", "tsv", "csv"])
def test_a_gzip_bomb_is_not_unpacked_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(tables, "UNPACKED", 2**20)
    (tmp_path / f"a.{suffix}.gz").write_bytes(gzip.compress(b"0" * 2**22))
    with pytest.raises(UserError, match=r"unpacks to more than 1 MiB, the limit"):
        read_table(tmp_path / f"a.{suffix}.gz")


def test_a_parquet_bomb_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "UNPACKED", 2**20)
    pq.write_table(pa.table({"text": ["x" * 1000] * 20_000}), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(UserError, match="unpacks to more than"):
        read_table(tmp_path / "a.parquet")


def test_json_list(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps([{"text": "a", "label": 1}, 3, {"text": "b"}], indent=1))
    table = read_table(path)
    assert (table.columns, table.dialect) == (("text", "label"), "JSON list")
    assert table.rows == [(1, ["a", 1]), (3, ["b", None])]
    assert table.bad == [(2, "not a JSON object")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1, 2]", "holds no JSON object: item 1 is not a JSON object"),
        ('{"a": \n}', "holds no JSON object: line 1 is bad JSON"),
        ("[" * 5000, "line 1 is bad JSON (nested too deeply)"),
        ("x,y\n1,2", "line 1 is bad JSON"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        read_table(tmp_path / "a.jsonl")
    assert said in str(caught.value)


def test_deep_json_is_a_broken_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n")
    assert read_table(tmp_path / "a.jsonl").bad == [(2, "bad JSON (nested too deeply)")]


def parquet(path: Path, **columns: object) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path)


def test_parquet_in_several_files(tmp_path: Path) -> None:
    for number, texts in enumerate((["a", "b"], [], ["c"])):
        parquet(tmp_path / f"train-{number:05}-of-00003.parquet", text=_strings(texts))
    table = read_table(tmp_path / "train-00000-of-00003.parquet")
    assert table.rows == [(1, ("a",)), (2, ("b",)), (3, ("c",))]
    assert table.dialect == "Parquet, 3 files"
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    parquet(tmp_path / "dev.parquet", text=_strings([]))
    with pytest.raises(UserError, match="is the first of 3 files, and train-00001"):
        read_table(tmp_path / "train-00000-of-00003.parquet")
    parquet(tmp_path / "train-00001-of-00003.parquet", other=_strings([]))
    with pytest.raises(UserError, match="has the columns other"):
        read_table(tmp_path / "train-00000-of-00003.parquet")


def _strings(values: list[str]) -> Any:
    return pytest.importorskip("pyarrow").array(values, "string")


def test_a_date_out_of_range_costs_no_other_column(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet(tmp_path / "a.parquet", text=["a"], when=pa.array([2**59], pa.timestamp("ms")))
    assert read_table(tmp_path / "a.parquet").rows[0][1][0] == "a"


def test_text_that_is_not_utf8_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    parquet(tmp_path / "a.parquet", text=broken)
    with pytest.raises(UserError, match="column 'text' holds what cannot be read"):
        read_table(tmp_path / "a.parquet")


def saved(folder: Path, texts: list[list[str]]) -> Path:
    """What `datasets.Dataset.save_to_disk` leaves: Arrow streams and a `state.json`."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(texts):05}.arrow" for number in range(len(texts))]
    for name, part in zip(names, texts, strict=True):
        table = pa.table({"text": part, "label": [1] * len(part)})
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        (folder / name).write_bytes(sink.getvalue())
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train", "_format_type": None}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    folder = saved(tmp_path / "train", [["a", "b"], ["c"]])
    table = read_table(folder)
    assert [row for _, row in table.rows] == [("a", 1), ("b", 1), ("c", 1)]
    assert table.dialect == "Arrow, 2 files"
    (folder / "data-00001-of-00002.arrow").write_bytes(b"no arrow")
    with pytest.raises(UserError, match="is not a whole Arrow file"):
        read_table(folder)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("{}", "names no Arrow files"),
        ('{"_data_files": [{"filename": "../secret"}]}', "names no Arrow files"),
        ('{"_data_files": [3]}', "names no Arrow files"),
        ('{"_data_files": {"filename": "a"}}', "names no Arrow files"),
        ('{"_data_files": [{"filename": "a"}], "_indices_data_files": [1]}', "flatten_indices"),
        ('{"_data_files": [{"filename": "absent.arrow"}]}', "cannot read"),
        ("[" * 5000, "nested too deeply"),
        ("[]", "a JSON object is expected"),
    ],
)
def test_a_state_that_says_something_else(tmp_path: Path, state: str, said: str) -> None:
    folder = saved(tmp_path / "train", [["a"]])
    (folder / "state.json").write_text(state)
    with pytest.raises(UserError) as caught:
        read_table(folder)
    assert said in str(caught.value)
