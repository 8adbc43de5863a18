"""The page without a browser: what is in it, that nothing breaks out of it, and that it stays small."""

from __future__ import annotations

import json
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.cells import write_cells
from helpers.made_run import TASKS, Made, write_run

from benchkit.analysis.comparisons import (
    HeadPredictions,
    TaskPredictions,
    Verdict,
    compare,
    disagreements,
    read_predictions,
    summarise,
)
from benchkit.analysis.html import page
from benchkit.analysis.results import Stored, read_runs
from benchkit.analysis.tables import interval, number, ranges
from benchkit.cli import cli

EVIL_HEAD = "<script>alert(1)</script>"
EVIL_TEXT = "</script></td><img src=x onerror=alert(2)> & {}".format


class _Page(HTMLParser):
    """Elements and the text in cells of tables, by the browser's rules for scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _page(stored: Stored, verdicts: Sequence[Verdict], *, texts: bool = True) -> str:
    return page(stored, verdicts, read_predictions(stored), texts=texts)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two phases, a hostile head and hostile texts, and one cell of each kind of fault."""
    made = Made(
        heads=(EVIL_HEAD, "wide", "deep"),
        seeds=4,
        text=EVIL_TEXT,
        phases={"pretrain": 2, "finetune": 3},
        statuses={("wide", 1): "failed", ("wide", 2): "collapsed", (EVIL_HEAD, 0): "diverged"},
    )
    folder = write_run(tmp_path_factory.mktemp("page"), made)
    out = folder / "report.html"
    done = CliRunner().invoke(cli, ["report", str(folder), "--html", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    return out.read_text(encoding="utf-8")


def test_every_part_is_there(html: str) -> None:
    ids = [attributes["id"] for _, attributes in _Page(html).tags if "id" in attributes]
    assert [each for each in ids if f'href="#{each}"' in html] == [
        "comparison", "verdicts", "curves", "costs", "confusion", "calibration", "examples", "faults", "provenance",
    ]  # fmt: skip


def test_what_users_wrote_stays_text(html: str) -> None:
    found = _Page(html)
    assert EVIL_HEAD in found.words
    assert any(word.startswith(EVIL_TEXT("").removesuffix(" ")) for word in found.words)
    assert not [name for name, attributes in found.tags if name == "img" or "onerror" in attributes]
    assert [attributes for name, attributes in found.tags if name == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]


def test_it_asks_for_nothing_from_outside(html: str) -> None:
    found = _Page(html)
    targets = [value for _, attributes in found.tags for name in ("src", "href") if (value := attributes.get(name))]
    assert {target for target in targets if not target.startswith("#")} == {"data:,"}
    policy = next(attributes["content"] for _, attributes in found.tags if "http-equiv" in attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"@import|url\(", html)
    assert not [attributes for _, attributes in found.tags if "style" in attributes]  # the policy would drop them


def test_faulty_cells_are_shown_and_counted(html: str) -> None:
    words = " ".join(_Page(html).words)
    for part in ("3 of 12 cells", "failed", "diverged", "collapsed", "<i>diverged</i> & so on"):
        assert part in words


def test_its_numbers_are_those_of_the_table(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    stored = read_runs([folder], log=pytest.fail)
    for task, observed in read_predictions(stored).items():
        for head, outcome in observed.heads.items():
            values = stored.results.seeds(head, "pretrain", task, "test").values()
            if observed.task.classes:
                right = outcome.confusion.trace() / outcome.confusion.sum()
                assert right == pytest.approx(np.mean(list(values)))
                assert 1 - outcome.miss.mean() == pytest.approx(right)
            assert outcome.bins[:, 0].sum() == outcome.seeds * len(observed.labels)
    data = json.loads(re.findall(r'id="data">(.*?)</script>', _page(stored, compare(stored, "pretrain")))[0])
    line = next(each for each in data["curves"] if (each["task"], each["split"], each["head"]) == ("sst", "dev", 0))
    points = [
        [point.value for record in stored.records[:3] for point in record.phases[0].curve
         if (point.task, point.split, point.epoch) == ("sst", "dev", epoch)]
        for epoch in line["epochs"]
    ]  # fmt: skip
    sums: list[Callable[[list[float]], float]] = [statistics.fmean, min, max]
    for row, sum_up in zip(line["value"], sums, strict=True):
        assert row == pytest.approx([sum_up(each) for each in points], rel=1e-4)


def test_without_the_data_the_page_has_no_texts_but_all_else(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    said: list[str] = []
    stored = read_runs([folder], log=said.append)
    text = _page(stored, compare(stored, "pretrain"))
    assert "the data was not found again" in text
    assert "sentence number" not in text
    assert said


def test_texts_can_be_left_out(tmp_path: Path) -> None:
    stored = read_runs([write_run(tmp_path)], log=pytest.fail)
    verdicts = compare(stored, "pretrain")
    with_texts, without = (_page(stored, verdicts, texts=texts) for texts in (True, False))
    assert "sentence number" in with_texts
    assert "sentence number" not in without
    assert "not found again" not in without


def test_calibration_error_and_confusion_by_hand() -> None:
    labels, predictions, scores = np.array([[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.85, 0.85, 0.65, 0.65]])
    outcome = summarise(TASKS["quora"], labels, predictions[None], scores[None])
    assert outcome.confusion.tolist() == [[1, 1], [1, 1]]
    # Half the examples are right with 0.85, half wrong with 0.65.
    assert outcome.errors.tolist() == [pytest.approx((2 * 0.15 + 2 * 0.65) / 4)]
    assert outcome.miss.tolist() == [0, 0, 1, 1]


def test_scores_are_compared_with_their_labels() -> None:
    predictions = np.array([[2.0, 4.0], [1.0, 2.0]])
    outcome = summarise(TASKS["sts"], np.array([1.0, 4.0]), predictions, predictions)
    assert outcome.errors.tolist() == [pytest.approx(0.5**0.5), pytest.approx(2**0.5)]
    assert outcome.said.tolist() == [1.5, 3.0]
    assert outcome.miss.tolist() == pytest.approx([0.1, 0.2])


def test_examples_that_divide_heads_come_first_and_of_these_the_hardest() -> None:
    miss = {"a": [0.0, 1.0, 1.0, 0.5], "b": [0.0, 1.0, 0.0, 0.0], "c": [0.0, 1.0, 1.0, 0.0]}
    empty = np.zeros((0, 0))
    outcomes = {
        head: HeadPredictions(2, empty.astype(np.int64), empty, empty, np.array(each), np.zeros(4))
        for head, each in miss.items()
    }
    observed = TaskPredictions(TASKS["quora"], "pretrain", "test", ("w", "x", "y", "z"), np.zeros(4), outcomes)
    assert [observed.ids[row] for row in disagreements(observed, 5)] == ["y", "z"]  # all agree on w and x


def test_one_head_with_one_seed_has_a_page(tmp_path: Path) -> None:
    """No pair, no interval, no spread, one epoch: nothing to divide by."""
    folder = write_run(tmp_path, Made(heads=("only",), seeds=1, sizes={"sst": (6, 5, 5)}, phases={"pretrain": 1}))
    stored = read_runs([folder], log=pytest.fail)
    text = _page(stored, [])
    assert not re.search(r"\bnan\b|Infinity", text.partition("<script>")[0], re.IGNORECASE)
    assert 'id="verdicts"' not in text


def test_cells_that_do_not_say_what_their_data_were_have_a_page(tmp_path: Path) -> None:
    """A table without a row, and no curve."""
    write_cells(tmp_path, {"good": 0.9, "bad": 0.4})
    stored = read_runs([tmp_path], log=lambda _: None)
    assert 'id="verdicts"' in _page(stored, compare(stored, "pretrain"))


def test_all_cells_failed_is_a_page_that_says_so(tmp_path: Path) -> None:
    failed = {("plain", seed): "failed" for seed in range(2)}
    folder = write_run(tmp_path, Made(heads=("plain",), seeds=2, statuses=failed))  # type: ignore[arg-type]
    text = _page(read_runs([folder], log=pytest.fail), [])
    assert "2 of 2 cells failed, diverged or collapsed" in text


def test_figures_are_the_plots_twice(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Made(heads=("plain", "a $x_1^$"), seeds=1, sizes={"sst": (9, 9, 9)}))
    out = tmp_path / "figures"
    done = CliRunner().invoke(cli, ["report", str(folder), "--figures", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    names = ["calibration-sst", "confusion-sst", "costs-pretrain", "curves", "scores-pretrain"]
    assert sorted(path.name for path in out.iterdir()) == [
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    ]
    assert "a $x_1^$" in (out / "scores-pretrain.svg").read_text(encoding="utf-8")


def test_a_folder_in_the_way_is_one_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path, Made(heads=("plain",), seeds=1, sizes={"sst": (6, 5, 5)}))
    done = CliRunner().invoke(cli, ["report", str(folder), "--html", str(folder)])
    assert done.exception is not None
    assert str(done.exception).startswith(f"cannot write {folder}: ")


def test_many_cells_stay_small_and_quick(tmp_path: Path) -> None:
    """20 cells of 3,000 predictions; `benchmarks/report_page.py` measures 100 of 60,000 in a process of its own."""
    sizes = {"sst": (100, 500, 500), "quora": (100, 500, 500), "sts": (100, 500, 500)}
    folder = write_run(tmp_path, Made(heads=[f"head{i}" for i in range(10)], seeds=2, sizes=sizes))
    before, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stored = read_runs([folder], log=pytest.fail)
    text = _page(stored, compare(stored, "pretrain"))
    assert time.process_time() - before < 6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 300 * 1024
    assert len(text) < 1_000_000


def test_numbers_in_words() -> None:
    assert number(-0.0123, signed=True) == "−0.012"
    assert number(float("nan")) == number(None) == interval(float("nan"), 0) == "–"
    assert interval(-0.1, 0.1) == "−0.100 to +0.100"
    assert ranges([3, 0, 1, 7, 2, 3]) == "0–3, 7"
