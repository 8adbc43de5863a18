"""Subsets, the data check and its command."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchkit_cs224n import QUORA, SST, STS
from click.testing import CliRunner

from benchkit.cli import cli
from benchkit.data import Split, check_data, load_data, subsample
from benchkit.data.check import render


def split(labels: list[float], name: str = "train") -> Split:
    ids = tuple(f"r{n}" for n in range(len(labels)))
    return Split("sst", name, ids, tuple((each,) for each in ids), np.array(labels), "here", "sha")


MIXED = split([0.0] * 370 + [1.0] * 629 + [2.0])


@pytest.mark.parametrize(
    ("size", "counts"),
    [(100, {0: 37, 1: 63}), (10, {0: 4, 1: 6}), (500, {0: 185, 1: 315}), (999, {0: 370, 1: 628, 2: 1})],
)
def test_the_class_balance_is_kept_by_the_largest_remainder(size: int, counts: dict[int, int]) -> None:
    # 500: quotas 185, 314.5, 0.5: the tie goes to the lower label.
    drawn = subsample(MIXED, size, seed=3, stratified=True)
    assert Counter(drawn.labels.astype(int).tolist()) == counts
    assert len(drawn) == size


@pytest.mark.parametrize("stratified", [True, False])
def test_rows_stay_whole_and_in_order(stratified: bool) -> None:
    drawn = subsample(MIXED, 200, seed=0, stratified=stratified)
    rows = [MIXED.ids.index(each) for each in drawn.ids]
    assert rows == sorted(set(rows))
    assert drawn.texts == tuple((each,) for each in drawn.ids)
    assert drawn.labels.tolist() == MIXED.labels[rows].tolist()
    assert drawn.source.startswith("here; 200 of 1000 rows")
    assert drawn.sha256 == "sha"


def test_the_seed_decides() -> None:
    first = subsample(MIXED, 50, 0, stratified=False)
    assert first.ids == subsample(MIXED, 50, 0, stratified=False).ids
    assert first.ids != subsample(MIXED, 50, 1, stratified=False).ids
    assert set(first.ids) < set(subsample(MIXED, 80, 0, stratified=False).ids)
    # Fixed for ever: another machine, Python or numpy must draw these too.
    assert subsample(MIXED, 5, 0, stratified=False).ids == ("r290", "r306", "r656", "r762", "r885")


@pytest.mark.parametrize("size", [0, 1000, 5000])
def test_all_rows_are_the_split_itself(size: int) -> None:
    assert subsample(MIXED, size, 0, stratified=True) is MIXED


def test_unlabelled_rows_are_drawn_plainly() -> None:
    unlabelled = split([np.nan] * 20)
    assert not unlabelled.labelled
    assert len(subsample(unlabelled, 7, 0, stratified=True)) == 7
    with pytest.raises(ValueError, match="at least 0"):
        subsample(unlabelled, -1, 0, stratified=True)


def folder(base: Path, train: str, dev: str, test: str = "") -> Path:
    (base / "sst").mkdir(parents=True)
    for name, rows in (("train", train), ("dev", dev), ("test", test)):
        if rows:
            (base / "sst" / f"{name}.tsv").write_text(f"id\tsentence\tlabel\n{rows}", encoding="utf-8")
    return base


ALL = "".join(f"{n}\tword {n} of class\t{n % 5}\n" for n in range(20))
DEV = ALL.replace("word", "other words")


def test_check_counts(tmp_path: Path) -> None:
    more = ALL + "20\tword 0 of class\t0\n21\tword 1 of class\t4\n22\tno label\t\n"
    check = check_data(folder(tmp_path, more, DEV, "1\tword 3 of class\t3\n" + DEV.replace("other", "new")), [SST])
    train, dev, test = check.splits
    assert [train[name] for name in ("rows", "duplicates", "other label", "broken")] == [22, 2, 1, 1]
    balance = {row["label"]: row["rows"] for row in check.labels if row["split"] == "train"}
    assert balance == dict(zip(SST.classes, (5, 4, 4, 4, 5), strict=True))
    assert [train[name] for name in ("words", "p95", "max")] == [4.0, 4.0, 4]
    assert (dev["rows"], dev["duplicates"], test["rows"]) == (20, 0, 21)
    names = ("also in", "rows of", "whole rows", "rows sharing a text")
    assert [tuple(row[name] for name in names) for row in check.shared] == [
        ("train", "dev", 0, 0),
        ("train", "test", 1, 1),
        ("dev", "test", 0, 0),
    ]
    assert check.usable
    text = render(check)
    assert "sst/train.tsv:24: label missing" in text
    assert check.files[0]["sha256"] in text
    assert "is usable" in text


def test_check_finds_what_is_off(tmp_path: Path) -> None:
    only = "".join(f"{n}\tword {n}\t{n % 4}\n" for n in range(40))
    problems = "\n".join(check_data(folder(tmp_path / "a", only, only), [SST]).problems)
    assert "sst train: no example of very positive" in problems
    assert "sst: 40 of 40 dev rows (100.0%) are in train" in problems
    pair = "id\tsentence1\tsentence2\tscore\n1\ta\tb\t0.2\n2\tc\td\t0.9\n"
    (tmp_path / "b" / "sts").mkdir(parents=True)
    for name in ("train", "dev"):
        (tmp_path / "b" / "sts" / f"{name}.tsv").write_text(pair, encoding="utf-8")
    assert "scores from 0.2 to 0.9 fill less than half of 0 to 5" in check_data(tmp_path / "b", [STS]).problems[0]
    lacking = check_data(folder(tmp_path / "c", ALL, DEV), [SST, QUORA]).problems
    assert [each.partition(" in ")[0] for each in lacking] == ["no train split of quora", "no dev split of quora"]


def test_check_command(tmp_path: Path) -> None:
    good = folder(tmp_path / "good", ALL, DEV)
    run = CliRunner().invoke(cli, ["data", "check", str(good), "--tasks", "sst"])
    assert run.exit_code == 0, run.output
    assert "very negative" in run.output
    off = folder(tmp_path / "off", ALL, ALL)
    assert CliRunner().invoke(cli, ["data", "check", str(off), "--tasks", "sst"]).exit_code == 1
    refused = CliRunner().invoke(cli, ["data", "check", str(tmp_path / "none"), "--tasks", "sst"])
    assert "does not exist" in str(refused.exception)  # the main command prints it and exits with 2


@pytest.mark.real
def test_the_benchmark(real_data: Path) -> None:
    data = load_data(real_data, [SST, QUORA, STS])
    sizes = {name: [len(each) for each in splits.values()] for name, splits in data.items()}
    assert sizes == {"sst": [8544, 1101, 2210], "quora": [72688, 20212, 18551], "sts": [6040, 863, 1725]}
    assert all(each.labelled and not each.broken for splits in data.values() for each in splits.values())
    assert np.bincount(data["sst"]["train"].labels.astype(int)).tolist() == [1092, 2218, 1624, 2322, 1288]
    train = data["quora"]["train"]
    drawn = subsample(train, 8544, 0, stratified=True)
    assert int(drawn.labels.sum()) == round(8544 * train.labels.mean())


@pytest.mark.real
def test_the_course_files(real_data: Path) -> None:
    course = real_data.parent / "cs224n"
    data = load_data(course, [SST, STS])
    assert [len(each) for splits in data.values() for each in splits.values()] == [8544, 1101, 2210, 6040, 863, 1725]
    assert [each.labelled for each in data["sst"].values()] == [True, True, False]
    check = check_data(course, [QUORA])
    assert ([row["rows"] for row in check.splits], [row.line for row in check.broken]) == ([20212], [2577, 14222])


@pytest.mark.real
def test_both_collections_are_the_same_but_for_white_space(real_data: Path) -> None:
    tasks = [SST, STS]
    ours, theirs = load_data(real_data, tasks), load_data(real_data.parent / "cs224n", tasks)
    for task in ("sst", "sts"):
        for name, mine in ours[task].items():
            other = theirs[task][name]
            assert mine.ids == other.ids
            squeezed = [tuple(" ".join(text.split()) for text in texts) for texts in other.texts]
            assert list(mine.texts) == squeezed
            if other.labelled:
                assert np.allclose(mine.labels, other.labels, atol=0.0005)
