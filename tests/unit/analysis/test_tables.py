"""The printed table, word for word."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from helpers.failures import failure

from benchkit.analysis.report import comparison_text
from benchkit.analysis.tables import Style, collect, escape
from benchkit.core.record import CurvePoint, PhaseResult, Record, Score, Status
from benchkit.core.task import Metric, TaskSpec
from benchkit.experiment.companions import Control

STEPS = {"train": 0.2, "dev": 0.02, "test": 0.0}


def _tasks(*names: str) -> dict[str, TaskSpec]:
    metric = Metric("accuracy", lambda _, __: 0.0)
    return {name: TaskSpec(name, "", ("text",), "label", metric, {}, ()) for name in names}


TASKS = _tasks("tone", "twin", "grade")


def _phase(
    name: str, base: float, tasks: Iterable[str] = TASKS, unlabelled: str = "", events: tuple[str, ...] = ()
) -> PhaseResult:
    """Scores a tenth apart from task to task, and a curve of two epochs that ends at them."""
    keys = [
        (task, split, base + index / 10 + step)
        for index, task in enumerate(tasks)
        for split, step in STEPS.items()
        if (task, split) != (unlabelled, "test")
    ]
    scores = tuple(Score(task, split, "accuracy", value, 1.0, 10) for task, split, value in keys)
    curve = tuple(
        CurvePoint(name, epoch, task, split, "accuracy", value - (2 - epoch) / 10, 1 - value)
        for epoch in (1, 2)
        for task, split, value in keys
        if split != "test"
    )
    seconds = 4.0 if name == "pretrain" else 5944.0
    return PhaseResult(name, 2, 2, 8, 4, "", seconds, 0.5, scores, curve, events)


def _record(head: str, seed: int, *phases: PhaseResult, status: Status = "ok", error: str = "") -> Record:
    size = {"head": 307200 if head == "plain" else 940}
    return Record(
        f"{head}-{seed}",
        head,
        seed,
        status,
        {},
        parameters=size,
        phases=phases,
        failure=failure(error),
    )


def _controls(tasks: Iterable[str] = TASKS, unlabelled: str = "") -> list[Control]:
    return [
        Control("majority class", task, split, "accuracy", 0.25 + step / 100, 1.0)
        for task in tasks
        for split, step in STEPS.items()
        if (task, split) != (unlabelled, "test")
    ]


def _mixed() -> list[Record]:
    """Three heads, three seeds, two phases: one cell diverged, one failed, one collapsed."""
    event = ("pretrain epoch 1: twin predicts only class 'no' on dev",)
    records = []
    for head, base in (("plain", 0.3), ("recurrent", 0.32), ("wide_one", 0.34)):
        for seed in range(3):
            pretrain = _phase("pretrain", base + seed / 100, events=event if head == "plain" else ())
            finetune = _phase("finetune", base + 0.1 + seed / 50)
            records.append(_record(head, seed, pretrain, finetune))
    first, reason = records[3], "finetune epoch 2: the loss of tone is nan"
    records[3] = _record("recurrent", 0, *first.phases, status="diverged", error=reason)
    failed = records[6].phases[:1]
    records[6] = _record("wide_one", 0, *failed, status="failed", error="out of memory with batch size 8.")
    collapsed = records[7].phases
    records[7] = _record("wide_one", 1, *collapsed, status="collapsed", error="finetune: twin predicts only 'no'")
    return records


TERMINAL = """\
finetune: mean ± std over 2 to 3 seeds

tone · accuracy   dev            test           train − test
────────────────────────────────────────────────────────────────────────────────────────────
plain             0.440 ± 0.020  0.420 ± 0.020  +0.200 ± 0.000
recurrent !       0.470 ± 0.014  0.450 ± 0.014  +0.200 ± 0.000
wide_one !        0.490 ± 0.014  0.470 ± 0.014  +0.200 ± 0.000
(majority class)  0.250          0.250          +0.002

twin · accuracy   dev            test           train − test
────────────────────────────────────────────────────────────────────────────────────────────
plain             0.540 ± 0.020  0.520 ± 0.020  +0.200 ± 0.000
recurrent !       0.570 ± 0.014  0.550 ± 0.014  +0.200 ± 0.000
wide_one !        0.590 ± 0.014  0.570 ± 0.014  +0.200 ± 0.000
(majority class)  0.250          0.250          +0.002

grade · accuracy  dev            test           train − test
────────────────────────────────────────────────────────────────────────────────────────────
plain             0.640 ± 0.020  0.620 ± 0.020  +0.200 ± 0.000
recurrent !       0.670 ± 0.014  0.650 ± 0.014  +0.200 ± 0.000
wide_one !        0.690 ± 0.014  0.670 ± 0.014  +0.200 ± 0.000
(majority class)  0.250          0.250          +0.002

mean of tasks     dev            test           train − test    head parameters  time a seed
────────────────────────────────────────────────────────────────────────────────────────────
plain             0.540 ± 0.020  0.520 ± 0.020  +0.200 ± 0.000          307,200   1 h 39 min
recurrent !       0.570 ± 0.014  0.550 ± 0.014  +0.200 ± 0.000              940   1 h 39 min
wide_one !        0.590 ± 0.014  0.570 ± 0.014  +0.200 ± 0.000              940   1 h 39 min
(controls)        0.250          0.250          +0.002

pretrain: mean ± std over 3 seeds

test        tone           twin           grade          mean           train − test     time
─────────────────────────────────────────────────────────────────────────────────────────────
plain       0.310 ± 0.010  0.410 ± 0.010  0.510 ± 0.010  0.410 ± 0.010  +0.200 ± 0.000  4.0 s
recurrent   0.330 ± 0.010  0.430 ± 0.010  0.530 ± 0.010  0.430 ± 0.010  +0.200 ± 0.000  4.0 s
wide_one    0.350 ± 0.010  0.450 ± 0.010  0.550 ± 0.010  0.450 ± 0.010  +0.200 ± 0.000  4.0 s
(controls)  0.250          0.250          0.250          0.250

! recurrent, seed 0: diverged: finetune epoch 2: the loss of tone is nan. Not in the means of
  finetune.
! wide_one, seed 0: failed in finetune: out of memory with batch size 8. Not in the means of
  finetune.
! wide_one, seed 1: collapsed: finetune: twin predicts only 'no'. In the means of finetune.
Seeds behind the means of finetune: plain 3, recurrent 2, wide_one 2.
± is the standard deviation over seeds, not an interval; summary.csv has 95 % intervals of the mean.
  With fewer than 10 seeds it is rough.
Test was scored once a cell and phase, with the epoch chosen on dev.
pretrain epoch 1: twin predicts only class 'no' on dev (plain seeds 0, 1, 2).
"""

MARKDOWN = """\
### finetune: one seed

| tone · accuracy   | dev     | test    | train − test   |
|:------------------|:--------|:--------|:---------------|
| plain             | 0.420   | 0.400   | +0.200         |
| \\_odd\\_           | 0.440   | 0.420   | +0.200         |
| *majority class*  | *0.250* | *0.250* | *+0.002*       |

| twin · accuracy   | dev     | test   | train − dev   |
|:------------------|:--------|:-------|:--------------|
| plain             | 0.520   | –      | +0.180        |
| \\_odd\\_           | 0.540   | –      | +0.180        |
| *majority class*  | *0.250* | *–*    | *+0.002*      |

| mean of tasks   | dev     | test   | train − dev   |   head parameters |   time a seed |
|:----------------|:--------|:-------|:--------------|------------------:|--------------:|
| plain           | 0.470   | –      | +0.180        |           307,200 |    1 h 39 min |
| \\_odd\\_         | 0.490   | –      | +0.180        |               940 |    1 h 39 min |
| *controls*      | *0.250* | *–*    | *+0.002*      |                   |               |

### pretrain: one seed

| test       | tone    | twin (dev)   | mean (dev)   | train − dev   |   time |
|:-----------|:--------|:-------------|:-------------|:--------------|-------:|
| plain      | 0.300   | 0.420        | 0.370        | +0.180        |  4.0 s |
| \\_odd\\_    | 0.320   | 0.440        | 0.390        | +0.180        |  4.0 s |
| *controls* | *0.250* | *0.250*      | *0.250*      |               |        |

- One seed: how much these numbers vary between runs is unknown; small differences mean nothing.
- Test was scored once a cell and phase, with the epoch chosen on dev.
- No labelled test: twin. Dev chose the epoch, so it flatters.
"""


def test_the_terminal_table() -> None:
    assert comparison_text(collect(_mixed(), _controls(), TASKS)) == TERMINAL


def test_the_markdown_table_of_one_seed_without_a_labelled_test() -> None:
    tasks = _tasks("tone", "twin")
    records = [
        _record(head, 0, _phase("pretrain", base, tasks, "twin"), _phase("finetune", base + 0.1, tasks, "twin"))
        for head, base in (("plain", 0.3), ("_odd_", 0.32))
    ]
    assert comparison_text(collect(records, _controls(tasks, "twin"), tasks), style="markdown") == MARKDOWN


@pytest.mark.parametrize(
    ("count", "seeds", "fits"), [(1, 1, True), (3, 1, True), (7, 1, True), (3, 5, True), (4, 5, False), (7, 5, False)]
)
def test_a_terminal_of_100_columns_is_wide_enough(count: int, seeds: int, fits: bool) -> None:
    """Where many tasks make the short table of the first phase too wide, it is shown at length."""
    tasks = _tasks(*(f"task_{index}" for index in range(count)))
    records = [
        _record(
            head,
            seed,
            _phase("pretrain", 0.1 + seed / 100, tasks),
            _phase("finetune", 0.2 + seed / 100, tasks),
        )
        for head in ("baseline", "recurrent", "convolution")
        for seed in range(seeds)
    ]
    text = comparison_text(collect(records, _controls(tasks), tasks))
    assert max(map(len, text.splitlines())) <= 100
    assert bool(re.search(r"^test +task_0", text, re.MULTILINE)) == fits


def test_one_task_has_no_mean_over_tasks() -> None:
    tasks = _tasks("tone")
    text = comparison_text(collect([_record("plain", 0, _phase("finetune", 0.3, tasks))], _controls(tasks), tasks))
    assert "mean of tasks" not in text
    assert re.search(r"^tone · accuracy .*head parameters  time a seed$", text, re.MULTILINE)
    assert re.search(r"^plain +0.320  0.300  \+0.200 +307,200   1 h 39 min$", text, re.MULTILINE)


def test_a_head_without_numbers_says_why() -> None:
    records = [
        _record("plain", 0, _phase("pretrain", 0.3)),
        _record("broken", 0, status="failed", error="pretrain: forward returned a list"),
    ]
    text = comparison_text(collect(records, [], TASKS))
    assert len(re.findall(r"^broken ! +failed  –      –", text, re.MULTILINE)) == 4
    assert "! broken, seed 0: failed: pretrain: forward returned a list. Not in the means of pretrain." in text
    assert "Seeds behind the means of pretrain: plain 1, broken 0." in text


def test_nothing_but_failures_is_a_table_too() -> None:
    text = comparison_text(collect([_record("broken", 0, status="failed", error="no such file")], _controls(), TASKS))
    assert text.startswith("no phase: no numbers")
    assert "! broken, seed 0: failed: no such file.\n" in text


def test_ten_seeds_are_not_called_few() -> None:
    records = [_record("plain", seed, _phase("finetune", seed / 100)) for seed in range(10)]
    assert "it is rough" not in comparison_text(collect(records, [], TASKS))
    assert "it is rough" in comparison_text(collect(records[:9], [], TASKS))


def test_many_events_are_cut_short() -> None:
    events = tuple(f"pretrain epoch {epoch}: odd" for epoch in range(9))
    text = comparison_text(collect([_record("plain", 0, _phase("pretrain", 0.3, events=events))], [], TASKS))
    assert "pretrain epoch 5: odd (plain seed 0)." in text
    assert "pretrain epoch 6: odd" not in text
    assert "… and 3 more events" in text


@pytest.mark.parametrize("style", ["terminal", "markdown"])
def test_the_same_records_give_the_same_text(style: Style) -> None:
    first, second = (comparison_text(collect(_mixed(), _controls(), TASKS), style=style) for _ in range(2))
    assert first == second


def test_markdown_shows_names_as_they_are() -> None:
    assert escape("a|b *c* [d] <e> _f_ `g` \\") == r"a\|b \*c\* \[d\] \<e> \_f\_ \`g\` \\"
