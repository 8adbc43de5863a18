"""Files: a CSV in the manner of timm's, all numbers as JSON, a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import platform
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchkit.errors import UserError
from benchkit.runner.environment import environment
from benchkit.settings import plain
from benchkit.speed.ground import Ground
from benchkit.speed.plot import draw
from benchkit.speed.request import Limits
from benchkit.speed.row import Result, Row
from benchkit.store.atomic import write_atomic

_TIMED = ("infer", "train", "head")


def write(result: Result, ground: Ground, limits: Limits, folder: Path) -> list[Path]:
    """Write everything, and say where.

    Raises:
        UserError: the folder cannot be written to.
    """
    found = environment(ground.plan.execution)
    precisions = sorted({row.point.precision for row in result.rows})
    files: dict[str, bytes] = {}
    for precision in precisions:
        rows = [row for row in result.rows if row.point.precision == precision]
        files[f"{_stem(found, precision)}.csv"] = as_csv(rows).encode()
    stem = _stem(found, "-".join(precisions))
    files[f"{stem}.json"] = json.dumps(as_json(result, ground, limits, found), indent=1).encode()
    threads = ground.plan.execution.threads
    on = f"{_device(found)}, {threads} thread{'s' * (threads != 1)}" if ground.device.type == "cpu" else _device(found)
    picture = draw(result, title=f"{ground.encoder.name} on {on}")
    if picture is not None:
        files[f"{stem}.png"] = picture
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_atomic(folder / name, content)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
    return [folder / name for name in files]


def _stem(found: dict[str, Any], precision: str) -> str:
    device = re.sub(r"[^a-z0-9]+", "-", _device(found).lower()).strip("-")
    return f"speed-{device}-{precision}-torch{version('torch')}"


def _device(found: dict[str, Any]) -> str:
    if found["device"] == "cuda":
        return torch.cuda.get_device_name()
    return found["processor"] or platform.machine()


def as_csv(rows: Sequence[Row]) -> str:
    """A line a head, batch size and length; rates are examples a second, times milliseconds a step."""
    file = io.StringIO()
    lines = list(_lines(rows))
    names = list(dict.fromkeys(name for line in lines for name in line if name != "error"))
    writer = csv.DictWriter(file, [*names, "error"], lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _lines(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    names, batches, lengths = (
        list(dict.fromkeys(each))
        for each in zip(*((row.name, row.point.batch, row.point.length) for row in rows), strict=True)
    )
    for name, length, batch in product(names, lengths, batches):
        here = [row for row in rows if (row.name, row.point.batch, row.point.length) == (name, batch, length)]
        if here:
            yield _line(name, batch, length, here)


def _line(name: str, batch: int, length: str, rows: Sequence[Row]) -> dict[str, Any]:
    line: dict[str, Any] = {"head": name}
    for row in rows:
        mode, latency = row.point.mode, row.latency
        line[f"{mode}_samples_per_sec"] = _rounded(row.examples_per_second)
        line[f"{mode}_step_time"] = _rounded(1000 * latency.step.value if latency else None)
        line[f"{mode}_batch_size"] = batch
        line["seq_len"] = length
    whole = [row for row in rows if row.work and row.point.mode != "head"] or [row for row in rows if row.work]
    if whole and whole[0].work:
        line["param_count"] = round(whole[0].work.parameters / 1e6, 3)
        line["gmacs"] = _rounded(whole[0].work.macs / 1e9)
    line["error"] = "; ".join(f"{row.point.mode}: {row.error}" for row in rows if row.error)
    return line


def _rounded(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.5g}")


def as_json(result: Result, ground: Ground, limits: Limits, found: dict[str, Any]) -> dict[str, Any]:
    """Seconds, bytes, joules; what is not known is null."""
    plan = ground.plan
    return {
        "environment": found,
        "encoder": {"name": ground.encoder.name, "parameters": ground.encoder.parameters},
        "tasks": [shape.name for shape in ground.shapes],
        "configs": {name: plain(config) for name, config in plan.configs.items()},
        "pooling": plan.protocol.pooling,
        "limits": dataclasses.asdict(limits),
        "peak_flops": dict(result.peaks),
        "cores_of_others": result.others,
        "notes": list(result.notes),
        "rows": [_row(row) for row in result.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    rates = {
        "examples_per_second": row.examples_per_second,
        "sentences_per_second": row.sentences_per_second,
        "tokens_per_second": row.tokens_per_second,
    }
    values: dict[str, Any] = _finite({**dataclasses.asdict(row), **rates})
    return values


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
