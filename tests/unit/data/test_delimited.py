"""Delimiter and quoting are found by what they make of all lines; no row is lost in silence."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from benchkit.core.errors import UserError
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
