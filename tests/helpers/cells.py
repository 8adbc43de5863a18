"""Finished cells on disk with made-up predictions, scored by the tasks' own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchkit.core.plugins import load_plugins
from benchkit.core.record import PhaseResult, Record, Score, Status
from benchkit.core.task import TaskSpec
from benchkit.experiment.cell import key_of
from benchkit.store.cells import CellStore
from helpers.failures import failure

TASKS = ("sst", "quora", "sts")
SIZES = {"dev": 60, "test": 120}


def tasks() -> dict[str, TaskSpec]:
    plugins = load_plugins()
    return {name: plugins.task(name) for name in TASKS}


def write_cells(
    run: Path,
    skills: Mapping[str, float],
    seeds: Iterable[int] = range(3),
    *,
    sizes: Mapping[str, int] = SIZES,
    phases: tuple[str, ...] = ("pretrain",),
    identity: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    status: Status = "ok",
    error: str = "",
    unlabelled: tuple[str, ...] = (),
) -> list[Record]:
    """One cell for each head and seed.

    Args:
        skills: by head: the higher, the more predictions are right.
        sizes: examples of each task, by split.
        identity: parts in place of the usual ones.
        config: of the heads.
        unlabelled: tasks whose test has no labels.
    """
    known, store = tasks(), CellStore(run / "cells")
    whole = {
        "protocol": {"phases": list(phases), "pretrain": {"epochs": 2}},
        "tasks": [{"name": name, "metric": task.metric.name, "loss": "any"} for name, task in known.items()],
        "data": {name: {split: f"{name} {split}" for split in ("train", *sizes)} for name in known},
        "encoder": "e", "engine": {"benchkit": "0"}, "execution": {"device": "cpu"}, **(identity or {}),
    }  # fmt: skip
    records = []
    for head, skill in skills.items():
        for seed in seeds:
            parts = {**whole, "head": {"name": head, "config": dict(config or {}), "source": "s"}, "seed": seed}
            columns, scores = _predict(known, sizes, skill, np.random.default_rng([seed, *head.encode()]), unlabelled)
            results = tuple(PhaseResult(name, 2, 2, 8, 4, f"order {seed}", 3.0, 1.0, scores) for name in phases)
            record = Record(
                key_of(parts), head, seed, status, parts, {"head": 1000}, phases=results, failure=failure(error),
                data={"name": "nowhere", "splits": {}}, environment={"device": "cpu", "benchkit": "0"},
            )  # fmt: skip
            records.append(store.save(record, columns, {}))
    return records


def _predict(
    known: Mapping[str, TaskSpec],
    sizes: Mapping[str, int],
    skill: float,
    random: np.random.Generator,
    unlabelled: tuple[str, ...],
) -> tuple[dict[str, list[Any]], tuple[Score, ...]]:
    columns: dict[str, list[Any]] = {name: [] for name in ("task", "split", "id", "label", "prediction", "score")}
    scores = []
    for number, (name, task) in enumerate(known.items()):
        for split, size in sizes.items():
            data = np.random.default_rng([number, len(split)])  # the same for every cell
            if task.classes:
                labels = data.integers(len(task.classes), size=size).astype(float)
                right = data.random(size) * 0.5 + random.random(size) * 0.5 < skill
                found = np.where(right, labels, (labels + 1) % len(task.classes))
            else:
                labels = data.uniform(task.low, task.high, size)
                found = skill * labels + data.standard_normal(size) + random.standard_normal(size)
            labelled = split != "test" or name not in unlabelled
            if labelled:
                scores.append(Score(name, split, task.metric.name, task.metric.score(labels, found), 1.0, size))
            for column, values in (
                ("task", [name] * size), ("split", [split] * size), ("id", [f"{split}{i}" for i in range(size)]),
                ("label", labels.tolist() if labelled else [None] * size),
                ("prediction", found.tolist()), ("score", found.tolist()),
            ):  # fmt: skip
                columns[column] += values
    return columns, tuple(scores)
