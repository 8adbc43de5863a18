"""The page as a reader has it: driven in a real headless Chromium; skipped where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.browser import Browser, browser, find_browser
from helpers.made_run import Made, write_run

from benchkit.analysis.comparisons import compare, read_predictions
from benchkit.analysis.html import page
from benchkit.analysis.results import read_runs

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium: apt-get install chromium")

EVIL = "<script>alert(1)</script>"
CHARTS = ("curves", "costs", "calibration")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine heads, so that marks change their shape, and a cell of each fault."""
    made = Made(
        heads=(EVIL, *(f"head{i}" for i in range(8))),
        text="</script><img src=x onerror=alert(2)> {}".format,
        phases={"pretrain": 3, "finetune": 2},
        statuses={("head0", 1): "failed", ("head1", 2): "collapsed", (EVIL, 0): "diverged"},
    )
    folder = write_run(tmp_path_factory.mktemp("page"), made)
    stored = read_runs([folder], log=pytest.fail)
    path = folder / "report.html"
    path.write_text(page(stored, compare(stored, "finetune"), read_predictions(stored)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
def test_it_loads_without_an_error_or_a_request(tab: Browser, file: Path, dark: bool) -> None:
    tab.open(file, dark=dark)
    assert tab.problems == []
    for chart in CHARTS:
        assert tab.run(f"document.querySelectorAll('#{chart}-chart svg').length") > 0
    assert "could not be drawn" not in tab.run("document.body.innerText")
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) is dark


def test_a_theme_can_be_chosen(tab: Browser, file: Path) -> None:
    tab.open(file)
    before = tab.run("getComputedStyle(document.body).backgroundColor")
    tab.click("#theme")
    assert tab.run("getComputedStyle(document.body).backgroundColor") != before
    tab.click("#theme")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == before


def test_a_click_on_a_header_sorts(tab: Browser, file: Path) -> None:
    tab.open(file)
    cells = "[...document.querySelector('table.scores').tBodies[0].rows].map(row => row.cells[1].dataset.value)"
    header = "table.scores thead th:nth-child(2)"
    tab.click(f"{header} button")
    assert tab.run(f"document.querySelector('{header}').ariaSort") == "descending"
    values = [float(value) for value in tab.run(cells)]
    assert values == sorted(values, reverse=True)
    tab.click(f"{header} button")
    assert tab.run(f"document.querySelector('{header}').ariaSort") == "ascending"
    assert [float(value) for value in tab.run(cells)] == sorted(values)
    last = "[...document.querySelector('table.scores').tBodies].at(-1).textContent"
    assert "controls" in tab.run(last)  # they stay at the end


def test_a_header_sorts_by_keyboard_too(tab: Browser, file: Path) -> None:
    tab.open(file)
    tab.run("document.querySelector('table.scores thead button').focus()")
    tab.press("Enter", 13)
    names = tab.run(
        "[...document.querySelector('table.scores').tBodies[0].rows].map(row => row.cells[0].dataset.value)"
    )
    assert tab.run("document.querySelector('table.scores thead th').ariaSort") == "ascending"
    assert sorted(names) == sorted([EVIL, *(f"head{i}" for i in range(8))])
    assert names[1:] == sorted(names[1:])


def test_a_head_can_be_taken_from_the_curves(tab: Browser, file: Path) -> None:
    tab.open(file)
    lines = "document.querySelectorAll('#curves-chart .line[data-head=head3]').length"
    panels = tab.run("document.querySelectorAll('#curves-chart figure').length")
    assert tab.run(lines) == panels == 3
    box = ".toggles label:nth-of-type(5) input"
    tab.click(box)
    assert tab.run(lines) == 0
    assert tab.run("document.querySelectorAll('#curves-chart .line').length") == 8 * 3
    tab.click(box)
    assert tab.run(lines) == 3


def test_task_and_phase_can_be_chosen(tab: Browser, file: Path) -> None:
    tab.open(file)
    tab.click("#curves-chart input[name=task][value=sts]")
    assert tab.run("document.querySelectorAll('#curves-chart figure').length") == 1
    tab.click("#curves-chart input[name=phase][value=pretrain]")
    assert "pretrain" in tab.run("document.querySelector('#curves-chart svg').ariaLabel")
    tab.click("#curves-chart input[name=split][value=both]")
    assert tab.run("document.querySelectorAll('#curves-chart .line').length") == 18


def test_pointing_and_arrow_keys_read_values(tab: Browser, file: Path) -> None:
    tab.open(file)
    tab.hover("#curves-chart svg", 0.97)
    tip = "document.querySelector('#curves-chart .tip:not([hidden])')?.innerText ?? ''"
    assert tab.run(tip).startswith("epoch 2")
    assert EVIL in tab.run(tip)
    tab.run("document.querySelector('#curves-chart svg').focus()")
    tab.press("Home", 36)
    assert tab.run(tip).startswith("epoch 1")
    tab.press("ArrowRight", 39)
    assert tab.run(tip).startswith("epoch 2")
    tab.press("Escape", 27)
    assert tab.run(tip) == ""


@pytest.mark.parametrize("width", [390, 760, 1280])
def test_the_page_never_scrolls_sideways(tab: Browser, file: Path, width: int) -> None:
    tab.open(file, width=width)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.problems == []


def test_tables_are_there_without_a_script(tab: Browser, file: Path) -> None:
    tab.open(file, script=False)
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    text = tab.run("document.body.innerText")
    assert "This chart takes JavaScript" in text
    for part in (EVIL, "mean of tasks", "majority class", "very negative", "Provenance"):
        assert part in text


def test_it_prints(tab: Browser, file: Path, tmp_path: Path) -> None:
    tab.open(file)
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") in range(5, 40)
    assert tab.problems == []
