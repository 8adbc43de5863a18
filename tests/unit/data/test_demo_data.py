"""Synthetic data: reproducible, in its vocabulary, learnable in the way it claims."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchkit_cs224n import QUORA, SST, STS, benchkit_tasks
from benchkit_demo import demo_vocabulary
from benchkit_demo.sentences import demo_words

from benchkit.core.task import TaskSpec
from benchkit.data import Split, check_data, load_data

Data = dict[str, dict[str, Split]]


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data("demo", benchkit_tasks())


def test_sizes_labels_and_lengths(data: Data) -> None:
    assert {tuple(map(len, splits.values())) for splits in data.values()} == {(1500, 400, 600)}
    lengths = [len(t.split()) for splits in data.values() for s in splits.values() for texts in s.texts for t in texts]
    assert min(lengths) >= 5
    assert max(lengths) <= 25
    assert set(data["sst"]["train"].labels) == {0, 1, 2, 3, 4}
    assert data["quora"]["train"].labels.mean() == pytest.approx(0.37, abs=0.03)
    scores = data["sts"]["train"].labels
    assert (scores.min(), scores.max()) == (0, 5)


def test_splits_share_no_text(data: Data) -> None:
    check = check_data("demo", benchkit_tasks())
    assert check.usable
    assert {(row["whole rows"], row["rows sharing a text"]) for row in check.shared} == {(0, 0)}
    assert {row["duplicates"] for row in check.splits} == {0}


def test_every_word_is_in_the_vocabulary(data: Data) -> None:
    known, used = set(demo_words()), set[str]()
    for splits in data.values():
        for split in splits.values():
            for texts in split.texts:
                for text in texts:
                    assert text[0].isupper()
                    used.update(re.findall(r"\w+|[^\w\s]", text.lower()))
    assert used <= known
    assert len(known) < 600
    assert len(known - used) < 5  # no dead words either
    assert known < set(demo_vocabulary())
    assert len(demo_vocabulary()) == len(set(demo_vocabulary()))


DIGESTS = """
from benchkit_cs224n import benchkit_tasks
from benchkit.data import load_data
from benchkit_demo.sentences import demo_words
data = load_data("demo", benchkit_tasks())
print([split.sha256 for splits in data.values() for split in splits.values()], demo_words())
"""


def test_another_process_makes_the_same(data: Data) -> None:
    said = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        run = subprocess.run([sys.executable, "-c", DIGESTS], capture_output=True, text=True, env=environment)
        assert run.returncode == 0, run.stderr
        said.add(run.stdout)
    (digests,) = said
    assert all(split.sha256 in digests for splits in data.values() for split in splits.values())


def test_another_seed_makes_another() -> None:
    for task in (SST, QUORA, STS):
        assert task.demo is not None
        small = task.demo(1)["train"][:50]
        assert small != task.demo(2)["train"][:50]


def _bags(split: Split, words: dict[str, int]) -> list[np.ndarray]:
    """Counts of words: a (n, words) array for each segment."""
    bags = [np.zeros((len(split), len(words))) for _ in split.texts[0]]
    for row, texts in enumerate(split.texts):
        for segment, text in enumerate(texts):
            for word in re.findall(r"[a-z]+", text.lower()):
                bags[segment][row, words[word]] += 1
    return bags


def _ridge(data: Data, task: TaskSpec, *, compare: bool) -> tuple[float, float]:
    """(control, test metric) of a ridge regression on words; `compare` adds what the two sentences share."""
    words = {word: index for index, word in enumerate(demo_words())}
    inputs = {}
    for name, split in data[task.name].items():
        bags = _bags(split, words)
        inputs[name] = np.hstack([*bags, bags[0] * bags[1]] if compare else bags)
    train, test = data[task.name]["train"].labels, data[task.name]["test"].labels
    targets = np.eye(len(task.classes))[train.astype(int)] if task.classes else train[:, None]
    x, mean = inputs["train"], inputs["train"].mean(0)
    x = x - mean
    weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ (targets - targets.mean(0)))
    outputs = (inputs["test"] - mean) @ weights + targets.mean(0)
    predictions = outputs.argmax(1) if task.classes else outputs[:, 0]
    control = (test == np.bincount(train.astype(int)).argmax()).mean() if task.classes else 0.0
    return float(control), task.metric.score(test, predictions)


@pytest.mark.parametrize(("task", "gain", "further"), [(SST, 0.2, None), (QUORA, 0.08, 0.03), (STS, 0.3, 0.1)])
def test_weak_heads_beat_the_control_and_comparing_beats_them(
    data: Data, task: TaskSpec, gain: float, further: float | None
) -> None:
    control, additive = _ridge(data, task, compare=False)
    assert additive > control + gain
    assert additive < 0.9
    if further is not None:
        assert _ridge(data, task, compare=True)[1] > additive + further


def test_the_package_loads_no_torch() -> None:
    modules = (
        "benchkit.data, benchkit.nn.losses, benchkit.nn.metrics, benchkit_cs224n, benchkit_demo, benchkit.cli.data"
    )
    heavy = "('torch', 'pandas', 'pyarrow', 'scipy')"
    code = f"import sys, {modules}; print([m for m in {heavy} if m in sys.modules])"
    path = os.pathsep.join(filter(None, sys.path))
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=Path.cwd(),
    )
    assert run.stdout.strip() == "[]", run.stderr
