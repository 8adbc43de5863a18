"""Files as tables: delimiter and quoting are found by what they make of all lines; no row is lost in silence."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchkit.core.errors import UserError
from benchkit.data import tables
from benchkit.data.tables import read_table

HEADER = ["id", "sentence1", "sentence2", "label"]
PLAIN = [[f"q{n}", f"the robot {n} ?", f"a kite {n} ?", str(n % 2)] for n in range(80)]


def written(path: Path, rows: list[list[str]], delimiter: str, quoting: Any = None) -> Path:
    """Rows under `HEADER`; without quoting, or as Python's CSV writer quotes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        if quoting is None:
            file.writelines(delimiter.join(row) + "\n" for row in [HEADER, *rows])
        else:
            csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows([HEADER, *rows])
    return path


def cells(path: Path) -> list[list[str]]:
    table = read_table(path)
    assert table.bad == []
    assert list(table.columns) == HEADER
    return [list(row) for _, row in table.rows]


def with_texts(*texts: tuple[int, str]) -> list[list[str]]:
    rows = [list(row) for row in PLAIN]
    for number, text in texts:
        rows[number][1] = text
    return rows


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    "rows",
    [
        with_texts((10, '"Be yourself means what ?'), (40, 'who said "be yourself"')),
        with_texts((10, '"Be yourself means what ?'), (40, 'who said be yourself"')),
        with_texts((10, '"Be yourself means what ?'), (11, 'be yourself"')),
        with_texts((10, '"open')),
        with_texts((79, '"open')),
        with_texts((10, 'an inch: 5"'), (20, "\"'tis"), (30, '""')),
    ],
    ids=["pair up in the text", "pair up at its end", "next line", "open", "open in the last row", "others"],
)
def test_without_quoting_all_rows_keep_their_quotes(tmp_path: Path, rows: list[list[str]], suffix: str) -> None:
    found = cells(written(tmp_path / f"dev.{suffix}", rows, "\t"))
    assert found == rows


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", ["\t", ",", ";"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_quoted_as_csv(tmp_path: Path, suffix: str, delimiter: str, quoting: Any) -> None:
    rows = with_texts(
        (1, 'What does "the robot" mean?'),
        (2, "two\nlines"),
        (3, 'a, b; c\td "e"'),
        (4, '"'),
        (5, ""),
        (6, 'x\n\n"y"\n'),
    )
    assert cells(written(tmp_path / f"dev.{suffix}", rows, delimiter, quoting)) == rows


def test_quoted_line_breaks_stay_when_a_part_has_as_many_commas_as_a_row(tmp_path: Path) -> None:
    rows = with_texts((2, "Hello,\nthere, and, so"), (3, 'a "b"'))
    assert cells(written(tmp_path / "dev.csv", rows, ",", csv.QUOTE_MINIMAL)) == rows


def test_a_row_that_was_broken_by_hand_takes_in_no_other(tmp_path: Path) -> None:
    """A CSV file with one quote too many: its line is named, and what it would take in is kept."""
    path = written(tmp_path / "dev.csv", with_texts(*((n, f'a "{n}"') for n in range(40))), "\t", csv.QUOTE_MINIMAL)
    lines = path.read_text().split("\n")
    lines[51], lines[56] = lines[51].replace("the robot", '"the robot'), lines[56].replace("50 ?", '50 ?"')
    lines[56] = lines[56].replace(" ?\ta", ' ?"\ta')
    path.write_text("\n".join(lines))
    table = read_table(path)
    assert len(table.rows) == 79
    assert [line for line, _ in table.bad] == [52]
    assert "takes in the lines to 57, 6 of which are rows" in table.bad[0][1]
    assert table.rows[0][1][1] == 'a "0"'


def test_mixed_quoting_is_refused(tmp_path: Path) -> None:
    rows = with_texts((3, '"What does ""this"" mean?"'), (7, 'and "that" ?'))
    with pytest.raises(UserError, match="line 5 doubles its quotes as CSV does, line 9 does not"):
        read_table(written(tmp_path / "dev.tsv", rows, "\t"))


def test_one_column_with_quoted_line_breaks_is_refused_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('sentence\n"two\nlines"\n')
    with pytest.raises(UserError, match="a quote opens in line 2 and closes in line 3"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "b.tsv").write_text('sentence\n"two\nlines"\n"a ""b"""\n')
    with pytest.raises(UserError, match="a quote opens in line 2 and closes in line 3"):
        read_table(tmp_path / "b.tsv")
    (tmp_path / "a.tsv").write_text('sentence\n"two\nlines"\n')
    assert [row for _, row in read_table(tmp_path / "a.tsv").rows] == [['"two'], ['lines"']]


PARTS = ["a", "b c", '"', '""', ",", ";", "'", " ", "5", "x\u2028y"]


@pytest.mark.parametrize("seed", range(150))
def test_no_row_is_lost_whatever_the_texts(tmp_path: Path, seed: int) -> None:
    """Random texts: the same rows again, or an error, or broken rows that are named; all lines are accounted for."""
    chance = random.Random(seed)
    quoting = chance.choice([None, csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    delimiter = "\t" if quoting is None else chance.choice("\t,;")
    parts = [*PARTS, *(["\t", "\n"] if quoting is not None else [])]
    few = chance.random() < 0.5  # texts mostly without quotes, or all full of them
    rows = []
    for number in range(40):
        texts = ["".join(chance.choices(parts, k=chance.randint(1, 6))) for _ in range(2)]
        rows.append([f"q{number}", *(["one", "two"] if few and chance.random() < 0.9 else texts), "1"])
    path = written(tmp_path / chance.choice(["a.csv", "a.tsv"]), rows, delimiter, quoting)
    try:
        table = read_table(path)
    except UserError:
        return
    assert {row[0] for _, row in table.rows} | {"named"} >= {row[0] for row in rows} or table.bad
    if quoting is None:
        assert len(table.rows) + len(table.bad) == 40  # a line is a row, or it is named
    elif not table.bad:
        assert [list(cells) for _, cells in table.rows] == rows


def as_bytes(rows: list[list[str]], delimiter: str = "\t") -> bytes:
    return "".join(delimiter.join(row) + "\n" for row in [HEADER, *rows]).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\t", b";"),
        lambda data: data.replace(b"\t", b","),
    ],
    ids=["old Mac", "byte order mark", "Windows", "semicolons", "commas"],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_line_ends_and_delimiters(tmp_path: Path, change: Any, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(change(as_bytes(PLAIN)))
    assert cells(tmp_path / f"a.{suffix}") == PLAIN


def test_mixed_line_ends_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(as_bytes(PLAIN).replace(b"\n", b"\r") + as_bytes(PLAIN[:9]))
    with pytest.raises(UserError, match="81 lines end with a carriage return and 10 with a line feed"):
        read_table(tmp_path / "a.tsv")


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
