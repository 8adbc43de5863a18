"""A folder of finished cells that no training made, written through the real stores, with data to match."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchkit_cs224n import benchkit_tasks

from benchkit.core.record import CurvePoint, PhaseResult, Record, Score, Status
from benchkit.core.task import SPLITS, TaskSpec
from benchkit.data import Split, load_data
from benchkit.store.cells import CellStore
from helpers.failures import failure

TASKS: Mapping[str, TaskSpec] = {task.name: task for task in benchkit_tasks()}
Data = Mapping[str, Mapping[str, Split]]


@dataclass(frozen=True)
class Made:
    """What is written.

    Attributes:
        sizes: rows of train, dev and test, by task.
        text: of example i.
        statuses: of cells that are not `ok`, by head and seed.
    """

    heads: Sequence[str] = ("plain", "wide", "deep")
    seeds: int = 3
    sizes: Mapping[str, tuple[int, int, int]] = field(
        default_factory=lambda: {"sst": (60, 40, 50), "quora": (60, 40, 50), "sts": (60, 40, 50)}
    )
    phases: Mapping[str, int] = field(default_factory=lambda: {"pretrain": 4})
    text: Callable[[int], str] = "sentence number {}".format
    statuses: Mapping[tuple[str, int], Status] = field(default_factory=dict)


def write_run(folder: Path, made: Made = Made()) -> Path:
    """Data in `folder/data`, cells in `folder/run/cells`; the run's folder."""
    data = _write_data(folder / "data", made)
    store = CellStore(folder / "run" / "cells")
    for place, head in enumerate(made.heads):
        for seed in range(made.seeds):
            _write_cell(store, folder / "data", data, made, place, head, seed)
    return folder / "run"


def _write_data(folder: Path, made: Made) -> Data:
    random = np.random.default_rng(0)
    for name, sizes in made.sizes.items():
        task = TASKS[name]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, rows in zip(SPLITS, sizes, strict=True):
            labels = random.integers(len(task.classes), size=rows) if task.classes else random.random(rows) * 5
            with (folder / name / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for i, label in enumerate(labels.tolist()):
                    texts = {column: f"{made.text(i)} {column}" for column in task.texts}
                    file.write(json.dumps({"id": f"{split}{i}", **texts, task.label: round(label, 2)}) + "\n")
    return load_data(str(folder), [TASKS[name] for name in made.sizes])


def _write_cell(store: CellStore, folder: Path, data: Data, made: Made, place: int, head: str, seed: int) -> None:
    status = made.statuses.get((head, seed), "ok")
    columns: dict[str, list[Any]] = {name: [] for name in ("task", "split", "id", "label", "prediction", "score")}
    scores = []
    for number, (name, splits) in enumerate(data.items()):
        for split, rows in splits.items():
            found, sure = _predict(TASKS[name], rows, place, seed, number)
            value = TASKS[name].metric.score(rows.labels, found) + 0.1 * (split == "train")
            scores.append(Score(name, split, TASKS[name].metric.name, value, 1.2 - value, len(rows)))
            if split != "train":
                parts: tuple[Any, ...] = ([name] * len(rows), [split] * len(rows), rows.ids, rows.labels, found, sure)
                for column, part in zip(columns.values(), parts, strict=True):
                    column.extend(part)
    phases = tuple(_phase(name, epochs, scores, place, seed) for name, epochs in made.phases.items())
    record = Record(
        key=f"{place:04x}{seed:04x}{len(made.heads):08x}",
        head=head,
        seed=seed,
        status=status,
        identity=_identity(data, made, place, head, seed),
        parameters={"head": 1000 * 2**place, "trunk": 400, "branches": 1000 * 2**place - 400, "encoder": 17_000_000},
        environment={"benchkit": "0.1.0", "python": "3.11", "packages": {"torch": "2.6"}, "device": "cpu"},
        data={"name": str(folder), "splits": _sources(data)},
        encoder={"name": "tiny", "fingerprint": "e" * 64, "notes": []},
        phases=() if status == "failed" else phases,
        failure=failure("" if status == "ok" else f"{next(iter(made.phases))} epoch 2: <i>{status}</i> & so on"),
        peak_memory_bytes=2**30,
    )
    empty: dict[str, list[Any]] = {name: [] for name in columns}
    store.save(record, empty if status in ("failed", "diverged") else columns, {})


def _predict(task: TaskSpec, rows: Split, place: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Later heads are a little better, and heads agree on what is hard."""
    random = np.random.default_rng([place, seed, number, len(rows)])
    hard = np.random.default_rng(number).random(len(rows))
    skill = 0.5 + 0.03 * place
    if not task.classes:
        noise = random.normal(size=len(rows)) * 2 * (1 - skill)
        found = np.clip(rows.labels * 0.8 + 0.5 + noise + hard - 0.5, task.low, task.high)
        return found, found
    right = 0.7 * hard + 0.3 * random.random(len(rows)) < skill
    other = (rows.labels + 1 + random.integers(len(task.classes) - 1, size=len(rows))) % len(task.classes)
    sure = np.clip(0.45 + 0.5 * random.random(len(rows)) * (1.1 - hard), 1 / len(task.classes), 1.0)
    return np.where(right, rows.labels, other), sure


def _phase(name: str, epochs: int, scores: Sequence[Score], place: int, seed: int) -> PhaseResult:
    curve = tuple(
        CurvePoint(name, epoch, score.task, score.split, score.metric, *_point(score, epoch, epochs))
        for epoch in range(1, epochs + 1)
        for score in scores
        if score.split != "test"
    )
    time = 20.0 * (1 + place) + seed
    events = (f"{name} epoch 1: quora predicts only class 'different' on dev",) if seed == 0 else ()
    return PhaseResult(name, epochs, epochs, 100, 8, "0" * 16, time, 1.0, tuple(scores), curve, events)


def _point(score: Score, epoch: int, epochs: int) -> tuple[float, float]:
    return score.value * (1 - 0.5**epoch), score.loss * (1 + 0.5**epoch) + 0.1 * epoch / epochs


def _identity(data: Data, made: Made, place: int, head: str, seed: int) -> dict[str, Any]:
    tasks = [
        {"name": name, "classes": list(TASKS[name].classes), "loss": "", "metric": TASKS[name].metric.name}
        for name in data
    ]
    return {
        "head": {"name": head, "config": {"width": 8 * (place + 1)}, "source": "c" * 64},
        "protocol": {"phases": list(made.phases), "pooling": "cls", "subsample_seed": 0},
        "tasks": tasks,
        "data": {name: {split: rows.digest() for split, rows in splits.items()} for name, splits in data.items()},
        "encoder": "e" * 64,
        "seed": seed,
        "engine": {"benchkit": "0.1.0", "source": "d" * 64},
    }


def _sources(data: Data) -> dict[str, Any]:
    return {
        name: {
            split: {"rows": len(rows), "source": rows.source, "sha256": rows.sha256, "broken": 0}
            for split, rows in splits.items()
        }
        for name, splits in data.items()
    }
