"""Wrong data: one line each that says what, where and what to do."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest
from benchkit_cs224n import QUORA, SST, STS

from benchkit.core.errors import UserError
from benchkit.core.task import TaskSpec
from benchkit.data import load_data

GOOD = b"id\tsentence\tlabel\n1\tgood\t4\n"


def message(folder: Path, *tasks: TaskSpec) -> str:
    with pytest.raises(UserError) as caught:
        load_data(folder, tasks)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def train(folder: Path, data: bytes, name: str = "sst/train.tsv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    (path.parent / path.name.replace("train", "dev")).write_bytes(GOOD)
    return folder


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (GOOD.replace(b"4", b"7"), "train.tsv:2: label 7 out of range: sst takes a class from 0 to 4"),
        (GOOD.replace(b"4", b"1.5"), "train.tsv:2: label 1.5 out of range"),
        (GOOD.replace(b"4", b"-1"), "train.tsv:2: label -1 out of range"),
        (GOOD.replace(b"4", b"inf"), "label inf out of range"),
        (GOOD.replace(b"\tlabel", b"\tlable"), "(or sentiment), only id, sentence, lable; did you mean 'lable'?"),
        (b"1\tgood\t4\n2\tbad\t1\n", "no column 'sentence' (or text), only 1, good, 4; is there a header row?"),
        (b"x\t" * 900 + b"y\n" + b"1\t" * 900 + b"1\n", "only x, x, x, x, x, x, x, x, x, x and 891 more; is"),
        (GOOD.replace(b"id\t", b"label\t"), "has 2 columns named 'label'"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"id\tsentence\tlabel\n", "has a header and no rows"),
        (b"id\tsentence\tlabel\n1\t\t1\n", "1 of 1 rows are broken, the first in line 2: empty sentence"),
        (GOOD + b"1\tcaf\xe9\t3\n", "train.tsv:3 is not UTF-8"),
        (GOOD.decode().encode("utf-16"), "train.tsv:1 is not UTF-8"),
        (GOOD + b"2\t\0\0\t1\n", "train.tsv:3 holds a NUL byte"),
        (GOOD * 3 + b"x\tno label\t\n" * 6, "is this the right file?"),
    ],
)  # fmt: skip
def test_wrong_file(tmp_path: Path, data: bytes, said: str) -> None:
    assert said in message(train(tmp_path, data), SST)


def test_a_few_broken_rows_pass_and_many_do_not(tmp_path: Path) -> None:
    row, broken = b"1\tgood\t4\n", b"2\tbad\n"
    (passes,) = load_data(train(tmp_path, GOOD + row * 600 + broken * 6), [SST]).values()
    assert len(passes["train"].broken) == 6
    assert "6 of 599 rows are broken" in message(train(tmp_path, GOOD + row * 592 + broken * 6), SST)


def test_truncated_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD * 50)
    for data in (whole[:-9], whole[:12], b"not gzip at all"):
        assert "is not a whole gzip file" in message(train(tmp_path, data, "sst/train.tsv.gz"), SST)


def test_broken_parquet(tmp_path: Path) -> None:
    assert "is not a whole Parquet file" in message(train(tmp_path, b"PAR1 and no more", "sst/train.parquet"), SST)


def test_a_quote_that_is_never_closed_is_named_where_its_line_is_no_row(tmp_path: Path) -> None:
    endless = b'\tid\tsentence\tsentiment\n0\ta\t"' + b"long\n" * 40_000
    said = message(train(tmp_path, endless, "ids-sst-train.csv"), SST)
    assert "the first in line 2: a quote opens a field and does not close it" in said


def test_missing_folder(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path / "nowhere", SST)
    (tmp_path / "file").write_bytes(b"")
    assert "is a file, not a folder" in message(tmp_path / "file", SST)


def test_missing_split_names_the_way_out(tmp_path: Path) -> None:
    train(tmp_path, GOOD)
    said = message(tmp_path, SST, QUORA)
    assert said.startswith(f"no train split of quora in {tmp_path}: looked for quora/train.tsv.gz, ")
    assert said.endswith("leave the task out with --tasks sst")
    (tmp_path / "sst" / "dev.tsv").unlink()
    assert "no dev split of sst" in message(tmp_path, SST)


def test_the_folder_within_is_suggested(tmp_path: Path) -> None:
    train(tmp_path / "inner", GOOD)
    assert message(tmp_path, SST).endswith(f"did you mean {tmp_path / 'inner'}?")


def test_splits_of_different_sets_are_not_mixed(tmp_path: Path) -> None:
    pair = b"id\tsentence1\tsentence2\tscore\n1\ta\tb\t1\n"
    for name in ("sts/train.tsv", "sts/dev.tsv", "STS-B/test.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(pair)
    assert "come from different sets (sts/train.tsv, sts/dev.tsv, STS-B/test.tsv)" in message(tmp_path, STS)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    train(tmp_path, GOOD)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert message(tmp_path, SST).endswith("train.tsv: Permission denied")


def test_a_column_of_structures_in_parquet(tmp_path: Path) -> None:
    """As GLUE's question pairs are stored by some: one column with both questions in it."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"questions": [{"id": [1, 2], "text": ["a", "b"]}], "label": [1]})
    pq.write_table(table, buffer := io.BytesIO())
    folder = train(tmp_path, buffer.getvalue(), "sst/train.parquet")
    assert "'questions' holds lists or structures: make columns of what is in them" in message(folder, SST)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'[{"a": 1}\n', "holds no JSON object: line 1 is bad JSON"),
        (b'{"questions": {"text": ["a", "b"]}, "label": 1}\n', "'questions' holds lists or structures"),
        (b'{"text": ["a", "b"], "label": 1}\n', "sentence is not text but ['a', 'b']"),
        (
            b'{"texts": "a", "label": 1}\n',
            "has no column 'sentence' (or text), only texts, label; did you mean 'texts'?",
        ),
    ],
)
def test_json_says_what_is_wrong(tmp_path: Path, data: bytes, said: str) -> None:
    path = train(tmp_path, data, "sst/train.jsonl")
    (path / "sst" / "dev.jsonl").write_bytes(b'{"text": "a", "label": 1}\n')
    said_of = message(path, SST)
    assert said in said_of
    assert "header row" not in said_of


def test_what_is_there_instead_is_listed(tmp_path: Path) -> None:
    (tmp_path / "sst").mkdir()
    for name in ("train.json", "dev.txt"):
        (tmp_path / "sst" / name).write_text("x")
    assert "there are sst/dev.txt, sst/train.json; " in message(tmp_path, SST)


def test_two_versions_of_one_split(tmp_path: Path) -> None:
    for count in (2, 3):
        train(tmp_path, b"x", f"sst/train-00000-of-{count:05}.parquet")
    assert "are two versions of one split" in message(tmp_path, SST)
