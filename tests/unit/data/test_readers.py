"""Readers against tiny files that mimic the formats byte for byte."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from benchkit_cs224n import QUORA, SST, STS

from benchkit.core.errors import UserError
from benchkit.core.task import TaskSpec
from benchkit.data import Split, load_data

Change = Callable[[bytes], bytes]

TSV = b'id\tsentence\tlabel\na1\tA "bare quote film .\t4\na2\tSo so .\t2\n'
CSV = (
    b"\tid\tsentence1\tsentence2\tis_duplicate\n"
    b'7\tx1\t"Say ""hi"", how?"\tHow to say hi?\t1.0\n'
    b"8\tx2\tOne?\tTwo?\t0.0\n"
)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def load(folder: Path, task: TaskSpec) -> dict[str, Split]:
    return load_data(folder, [task])[task.name]


def fill(folder: Path, pattern: str, data: bytes, splits: tuple[str, ...] = ("train", "dev")) -> Path:
    for split in splits:
        write(folder / pattern.format(split=split), data)
    return folder


@pytest.mark.parametrize("pattern", ["sst/{split}.tsv.gz", "sst/{split}.tsv"])
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data + b"\n\r\n",
        lambda data: data.rstrip(b"\n"),
    ],
    ids=["plain", "crlf", "bom", "blank lines at the end", "no newline at the end"],
)
def test_normalised_tsv(tmp_path: Path, pattern: str, change: Change) -> None:
    train = load(fill(tmp_path, pattern, change(TSV)), SST)["train"]
    assert train.ids == ("a1", "a2")
    assert train.texts == (('A "bare quote film .',), ("So so .",))
    assert train.labels.tolist() == [4.0, 2.0]
    assert train.labels.dtype == np.float64
    assert (train.labelled, train.broken, train.task, train.name) == (True, (), "sst", "train")
    assert "TSV, no quoting" in train.source


def test_a_line_separator_inside_a_text_ends_no_row(tmp_path: Path) -> None:
    data = "id\tsentence\tlabel\n1\tone\u2028line\x85here\t0\n".encode()
    assert load(fill(tmp_path, "sst/{split}.tsv", data), SST)["dev"].texts == (("one\u2028line\x85here",),)


@pytest.mark.parametrize(
    "change", [lambda data: data, lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n") + b"\r\n"]
)
def test_cs224n_as_it_comes(tmp_path: Path, change: Change) -> None:
    fill(tmp_path, "quora-{split}.csv", change(CSV))
    write(tmp_path / "quora-test-student.csv", change(b"\tid\tsentence1\tsentence2\n9\tt1\tA?\tB?\n"))
    data = load(tmp_path, QUORA)
    assert data["train"].ids == ("x1", "x2")
    assert data["train"].texts[0] == ('Say "hi", how?', "How to say hi?")
    assert data["train"].labels.tolist() == [1.0, 0.0]
    assert data["train"].broken == ()
    assert not data["test"].labelled
    assert np.isnan(data["test"].labels).all()
    assert "label from is_duplicate" in data["train"].source


def test_cs224n_test_with_two_index_columns(tmp_path: Path) -> None:
    fill(tmp_path, "ids-sst-{split}.csv", b"\tid\tsentence\tsentiment\n0\ta7\t It 's lovely .\t3\n")
    write(tmp_path / "ids-sst-test-student.csv", b"0\t\tid\tsentence\n1\t0.0\tb7\t Effective biopic\n")
    data = load(tmp_path, SST)
    assert data["train"].texts == (("It 's lovely .",),)
    assert (data["test"].ids, data["test"].texts) == (("b7",), (("Effective biopic",),))


def test_a_quoted_field_may_span_lines(tmp_path: Path) -> None:
    data = b'\tid\tsentence\tsentiment\n0\ta\t"two\nlines"\t3\n1\tb\tnext\t1\n2\tc\t\t1\n'
    train = load(fill(tmp_path, "ids-sst-{split}.csv", data), SST)["train"]
    assert train.texts == (("two\nlines",), ("next",))
    assert [(row.line, row.reason) for row in train.broken] == [(5, "empty sentence")]


def test_glue(tmp_path: Path) -> None:
    head = b"index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
    row = b'4\tmain-news\tMSR\t2012\t0004\tnone\tnone\tA "man.\tA guy.'
    fill(tmp_path, "STS-B/{split}.tsv", head + b"\tscore\n" + row + b"\t4.250\n")
    write(tmp_path / "STS-B/test.tsv", head + b"\n" + row + b"\n")
    sts = load(tmp_path, STS)
    assert (sts["dev"].ids, sts["dev"].texts, sts["dev"].labels.tolist()) == (("4",), (('A "man.', "A guy."),), [4.25])
    assert not sts["test"].labelled
    fill(tmp_path, "QQP/{split}.tsv", b"id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tA?\tB?\t1\n")
    write(tmp_path / "QQP/test.tsv", b"id\tquestion1\tquestion2\n0\tC?\tD?\n")
    quora = load(tmp_path, QUORA)
    assert (quora["train"].ids, quora["train"].texts, quora["train"].labels.tolist()) == (
        ("5",),
        (("A?", "B?"),),
        [1.0],
    )
    assert (quora["test"].labelled, quora["test"].texts) == (False, (("C?", "D?"),))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"text": "fine\ttab", "label": 3, "label_text": "positive"},
        {"label": "neutral", "text": "so so", "idx": 9},
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode() + b'\n{"text": \n[1]\n'
    train = load(fill(tmp_path, "sst/{split}.jsonl" + suffix, data), SST)["train"]
    assert (train.ids, train.texts, train.labels.tolist()) == (("1", "9"), (("fine\ttab",), ("so so",)), [3.0, 2.0])
    assert [row.line for row in train.broken] == [3, 4]
    assert "bad JSON" in train.broken[0].reason


@pytest.mark.parametrize("pattern", ["stsb/{}.parquet", "sts/{}-00000-of-00001.parquet"])
def test_parquet_with_hugging_face_names(tmp_path: Path, pattern: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"sentence1": ["a", None], "sentence2": ["b", "c"], "label": [2.5, 1.0], "idx": [10, 11]})
    unlabelled = pa.table({"sentence1": ["a"], "sentence2": ["b"], "label": [-1.0], "idx": [10]})
    for split, content in (("train", table), ("validation", table), ("test", unlabelled)):
        path = tmp_path / pattern.format(split)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(content, path)
    data = load(tmp_path, STS)
    assert (data["dev"].ids, data["dev"].texts, data["dev"].labels.tolist()) == (("10",), (("a", "b"),), [2.5])
    assert [str(row).split(":", 1)[1] for row in data["dev"].broken] == ["2: empty sentence1"]
    assert not data["test"].labelled


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_dev_by_its_other_names(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "sst/{split}.tsv", TSV, ("train", name))
    assert list(load(tmp_path, SST)) == ["train", "dev"]


def test_an_empty_test_column_is_unlabelled(tmp_path: Path) -> None:
    fill(tmp_path, "sst/{split}.tsv", TSV)
    write(tmp_path / "sst/test.tsv", b"id\tsentence\tlabel\n1\tgood\t\n")
    assert not load(tmp_path, SST)["test"].labelled


def test_broken_rows_are_left_out_and_remembered(tmp_path: Path) -> None:
    data = b"id\tsentence\tlabel\n1\tok\t1\n2\tno label\t\n3\tx\n4\t \t2\n5\tword\tgood\n\n7\tok too\t0\n"
    train = load(fill(tmp_path, "sst/{split}.tsv", data), SST)["train"]
    assert train.ids == ("1", "7")
    assert [(row.line, row.reason) for row in train.broken] == [
        (3, "label missing"),
        (4, "2 fields, 3 expected"),
        (5, "empty sentence"),
        (6, "label 'good' is not a number"),
        (7, "empty line"),
    ]
    assert str(train.broken[0]) == "sst/train.tsv:3: label missing"


def test_ids_are_made_from_the_line_and_kept_distinct(tmp_path: Path) -> None:
    made = load(fill(tmp_path / "a", "sst/{split}.tsv", b"sentence\tlabel\nx\t1\ny\t2\n"), SST)["train"]
    assert made.ids == ("2", "3")
    data = b"id\tsentence\tlabel\na\tx\t1\na\ty\t2\na#2\tz\t2\na\tw\t0\n"
    repeated = load(fill(tmp_path / "b", "sst/{split}.tsv", data), SST)["train"]
    assert repeated.ids == ("a", "a#3", "a#2", "a#4")
    assert repeated.repeated_ids == 2


def test_sha256_is_the_files(tmp_path: Path) -> None:
    import hashlib

    train = load(fill(tmp_path, "sst/{split}.tsv", TSV), SST)["train"]
    assert train.sha256 == hashlib.sha256(TSV).hexdigest()


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    plain = load(fill(tmp_path / "a", "sst/{split}.tsv", TSV), SST)["train"]
    crlf = load(fill(tmp_path / "b", "sst/{split}.tsv.gz", TSV.replace(b"\n", b"\r\n")), SST)["train"]
    other = load(fill(tmp_path / "c", "sst/{split}.tsv", TSV.replace(b"\t2\n", b"\t3\n")), SST)["train"]
    assert plain.sha256 != crlf.sha256
    assert plain.digest() == crlf.digest() != other.digest()


def test_column_names_in_any_case(tmp_path: Path) -> None:
    data = b"ID\tSentence1\tQuestion2\tIs_Duplicate\nx\ta\tb\t1\n"
    train = load(fill(tmp_path, "quora/{split}.tsv", data), QUORA)["train"]
    assert (train.ids, train.texts, train.labels.tolist()) == (("x",), (("a", "b"),), [1.0])
    assert "label from Is_Duplicate" in train.source
    both = data.replace(b"ID\t", b"Label\t").replace(b"Is_Duplicate", b"label").replace(b"\nx\t", b"\n0\t")
    assert load(fill(tmp_path / "both", "quora/{split}.tsv", both), QUORA)["train"].labels.tolist() == [1.0]


def test_parquet_in_several_files(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "sst").mkdir()
    parts = [pa.table({"text": [f"a{number}", f"b{number}"], "label": [number, 4]}) for number in range(2)]
    for number, part in enumerate(parts):
        pq.write_table(part, tmp_path / "sst" / f"train-{number:05}-of-00002.parquet")
    pq.write_table(parts[1], tmp_path / "sst" / "validation-00000-of-00001.parquet")
    data = load(tmp_path, SST)
    assert data["train"].texts == (("a0",), ("b0",), ("a1",), ("b1",))
    assert data["train"].ids == ("1", "2", "3", "4")
    assert data["dev"].texts == (("a1",), ("b1",))
    assert "Parquet, 2 files" in data["train"].source


def test_a_folder_of_save_to_disk(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"text": ["a", "b"], "label": [3, 0]})
    for split in ("train", "validation"):
        folder = tmp_path / "sst" / split
        folder.mkdir(parents=True)
        with pa.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table)
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (tmp_path / "sst" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    data = load(tmp_path, SST)
    assert (data["dev"].texts, data["dev"].labels.tolist()) == ((("a",), ("b",)), [3.0, 0.0])
    assert data["dev"].source.startswith("sst/validation (Arrow; ")
    with pytest.raises(UserError, match=r"save_to_disk wrote: move it to .*/sst, with a folder a split"):
        load(tmp_path / "sst", SST)


def test_half_a_character_is_a_broken_row(tmp_path: Path) -> None:
    data = b'{"text": "ok", "label": 1}\n{"text": "\\ud83d", "label": 1}\n{"text": "b", "label": 1, "id": "\\udc00"}\n'
    train = load(fill(tmp_path, "sst/{split}.jsonl", data), SST)["train"]
    assert train.texts == (("ok",),)
    assert [str(row) for row in train.broken] == [
        "sst/train.jsonl:2: sentence holds half of a character (a lone surrogate)",
        "sst/train.jsonl:3: id holds half of a character (a lone surrogate)",
    ]


@pytest.mark.parametrize("label", ["NaN", '"nan"'])
def test_labels_that_are_no_number_are_broken_rows(tmp_path: Path, label: str) -> None:
    data = f'{{"text": "ok", "label": 1}}\n{{"text": "bad", "label": {label}}}\n'.encode()
    train = load(fill(tmp_path, "sst/{split}.jsonl", data), SST)["train"]
    assert [row.reason for row in train.broken] == ["label missing (NaN)"]


@pytest.mark.parametrize("label", ["Infinity", "-Infinity", "1e999", "1" + "0" * 400, "-1" + "0" * 400])
def test_labels_without_bound_are_refused(tmp_path: Path, label: str) -> None:
    data = f'{{"text": "ok", "label": 1}}\n{{"text": "bad", "label": {label}}}\n'.encode()
    with pytest.raises(UserError, match=r"train.jsonl:2: label .{1,30} out of range"):
        load(fill(tmp_path, "sst/{split}.jsonl", data), SST)
