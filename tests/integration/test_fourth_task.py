"""Data sets and an encoder from outside (fourth_task.py), with every head; nothing in benchkit knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pandas as pd
import pytest
from click.testing import CliRunner

import benchkit
from benchkit.cli import cli
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.experiment.workspace import open_encoder

FILE = Path(__file__).parent / "fourth_task.py"
HEADS = sorted(load_plugins().heads)
SMALL = {
    **{f"{task}.{split}_size": 40 for task in ("sst", "quora", "sts") for split in ("train", "dev", "test")},
    "pretrain.epochs": 1,
    "finetune.epochs": 1,
}


class Train(Protocol):
    def __call__(self, heads: list[str], tasks: str, **options: object) -> benchkit.Result: ...


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """`train(heads, tasks, …)` on the roomy encoder, one seed; no cell failed. So few steps may leave one diverged."""

    def run(heads: list[str], tasks: str, **options: object) -> benchkit.Result:
        settings = {**SMALL, **options.pop("settings", {})}  # type: ignore[dict-item]
        result = benchkit.run(
            heads, head_files=[FILE], data="demo", encoder="roomy", tasks=tasks, seeds=1, out=tmp_path,
            settings=settings, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        assert [cell.head for cell in result.cells] == heads
        assert not [cell.error for cell in result.cells if cell.status == "failed"]
        return result

    return run


def test_the_texts_are_as_long_as_the_encoder_reads() -> None:
    plugins = load_plugins([FILE])
    make = plugins.task("reviews").data
    assert make is not None
    texts = [example.texts for example in make()["train"]]
    tokenized = open_encoder("roomy", plugins).tokenize(texts)
    assert int(tokenized.lengths.max()) == 512
    assert tokenized.truncated > 0


def test_alone_with_every_head_in_both_phases(train: Train) -> None:
    result = train(HEADS, "reviews", settings={"reviews.train_size": 36})
    table = result.table()
    assert set(table["task"]) == {"reviews", "mean"}
    assert set(table["metric"]) == {"matthews", "mean"}
    assert set(table["split"]) == {"train", "dev", "test"}
    scores = table[table["head"].isin(HEADS) & (table["task"] == "reviews")]
    assert len(scores) == len(HEADS) * 2 * 3
    assert scores["mean"].between(-1, 1).all()
    constant = table[table["head"] == "majority class"]
    assert (constant["mean"] == 0).all()


def test_with_the_others_and_every_head(train: Train) -> None:
    # With the demo's smaller dropout a head diverges on so few examples.
    result = train(HEADS, "sst,quora,sts,reviews,comfort", phases="pretrain", settings={"cnn.dropout": 0.3})
    for cell in result.cells:
        tested = {score.task: score for score in cell.phases[-1].scores if score.split == "test"}
        assert list(tested) == ["sst", "quora", "sts", "reviews", "comfort"]
        assert (tested["reviews"].metric, tested["comfort"].metric) == ("matthews", "−error")
    assert "reviews · matthews" in str(result)


def test_pairs_joined_and_the_others_beside(train: Train) -> None:
    train(HEADS, "quora,sts,reviews", phases="pretrain", settings={"pair_input": "joint"})


def test_a_score_of_one_sentence_stays_in_its_range(train: Train) -> None:
    result = train(HEADS, "comfort", phases="pretrain")
    for cell in result.cells:
        rows = pd.read_parquet(result.folder / "cells" / cell.key / "predictions.parquet")
        assert rows["prediction"].between(1, 7).all(), cell.head


def test_it_can_be_learnt(train: Train) -> None:
    """Not that numbers come out, but that they are of this task: its words decide it."""
    settings = {"pretrain.epochs": 30, "pretrain.learning_rate": 2e-2}
    (cell,) = train(["baseline"], "reviews", phases="pretrain", settings=settings).cells
    (score,) = [each for each in cell.phases[0].scores if each.split == "test"]
    assert score.value > 0.8


def test_long_texts_and_a_short_encoder_are_told(tmp_path: Path) -> None:
    lines: list[str] = []
    benchkit.run(
        ["baseline"], head_files=[FILE], tasks="reviews", phases="pretrain", seeds=1, out=tmp_path, settings=SMALL,
        on_event=lambda event: lines.append(event["line"]) if event["event"] == "log" else None,
    )  # fmt: skip
    assert any("texts were cut to 128 word pieces" in line for line in lines), lines


def test_data_check_finds_it(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["data", "check", "demo", "--head-file", str(FILE)])
    assert done.exit_code == 0, done.output
    for part in ("sst", "reviews", "unhappy", "comfort", "1–2.2"):
        assert part in done.output


def test_a_folder_comes_before_its_own_data(tmp_path: Path) -> None:
    """Under its own column names, aliases included."""
    (tmp_path / "reviews").mkdir()
    for split in ("train", "dev"):
        lines = [f"{split}{n},a {split} text number {n},{n % 2}" for n in range(9)]
        (tmp_path / "reviews" / f"{split}.csv").write_text("\n".join(["id,review_body,recommended", *lines]))
    done = CliRunner().invoke(cli, ["data", "check", str(tmp_path), "--head-file", str(FILE)])
    assert done.exit_code == 0, done.output
    assert "reviews/train.csv" in done.output
    assert "Not here: sst, quora, sts." in done.output


def test_a_preset_that_speaks_of_tasks_that_are_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCHKIT_PLUGINS", "baseline")
    result = benchkit.run(
        ["baseline"], head_files=[FILE], preset="paper", data="demo", encoder="roomy", tasks="comfort", seeds=1,
        phases="pretrain", out=tmp_path, settings={"pretrain.epochs": 1},
    )  # fmt: skip
    assert result.cells[0].status == "ok"


BROKEN = {
    "data raises": ("data=lambda: open('gone.csv')", "own data of task 'bad' cannot be made: FileNotFoundError"),
    "data is garbage": ("data=lambda: {'train': ['a'], 'dev': ['b']}", "cannot be made: AttributeError"),
    "no dev": ("data=lambda: {'train': []}", "has no dev split"),
    "no rows": ("", "task 'bad' has no rows"),
    "texts": ("texts='review', data=rows", "one text column or two"),
    "losses": ("losses={}, data=rows", "has no loss"),
    "pattern": ("files=('bad.csv',)", "{split}"),
    "one class": ("classes=('only',), data=rows", "at least two classes"),
    "range": ("classes=(), low=1.0, data=rows", "from a low to a higher high"),
    "metric raises": ("metric=Metric('f1', lambda a, b: 1 / 0), data=rows", "'f1' of constant predictions raised Zero"),
    "metric is nan": (
        "metric=Metric('f1', lambda a, b: float('nan')), data=rows",
        "'f1' of constant predictions is nan",
    ),
}
SOURCE = """
from benchkit import Example, EncoderSpec, Metric, TaskSpec, hookimpl
from benchkit.nn import losses, metrics

def rows():
    made = [Example(str(n), (f"text {{n}}",), float(n % 2)) for n in range(8)]
    return {{"train": made, "dev": made}}

@hookimpl
def benchkit_tasks():
    options = dict(name="bad", summary="", texts=("t",), label="l", classes=("a", "b"), metric=metrics.accuracy,
                   losses={{"cross_entropy": losses.cross_entropy}})
    return [TaskSpec(**{{**options, **dict({task})}})]

def fails():
    raise OSError("no\\nroom")

@hookimpl
def benchkit_encoders():
    return [EncoderSpec("fails", "", fails), EncoderSpec("nothing", "", dict)]
"""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_task_is_one_line(name: str, tmp_path: Path) -> None:
    task, message = BROKEN[name]
    assert message in refused(tmp_path, task, "demo")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [("fails", "cannot be loaded: OSError: no room"), ("nothing", "load() returned {}, not an Encoder")],
)
def test_a_broken_encoder_is_one_line(encoder: str, message: str, tmp_path: Path) -> None:
    line = refused(tmp_path, "data=rows", encoder)
    assert message in line
    assert "plugin.py" in line


def refused(folder: Path, task: str, encoder: str) -> str:
    """The line that answers a run on a broken plugin; nothing is trained, nothing is left behind."""
    file = folder / "plugin.py"
    file.write_text(SOURCE.format(task=task), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        benchkit.run(["baseline"], head_files=[file], tasks="bad", encoder=encoder, seeds=1, out=folder / "out")
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()
    return str(caught.value)
