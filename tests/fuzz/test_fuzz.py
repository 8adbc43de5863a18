"""Damaged input of every kind ends in success or in one line: never a traceback, a hang or gigabytes.

Few examples here, the same each time; by hand `BENCHKIT_FUZZ=1500 pytest tests/fuzz` takes 1,500 of each kind.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from benchkit_cs224n import benchkit_tasks
from click.testing import CliRunner
from helpers.made_run import write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import benchkit
from benchkit.core.protocol import load_file
from benchkit.data import load_data
from benchkit.encoder import BertConfig, load_encoder, random_encoder, save_encoder
from benchkit.experiment.environment import PeakMemory
from benchkit.store.cells import CellStore

EXAMPLES = int(os.environ.get("BENCHKIT_FUZZ", "40"))
SECONDS, GIGABYTES = 20, 2
ROOMY = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
fuzz = settings(max_examples=EXAMPLES, deadline=timedelta(seconds=SECONDS), suppress_health_check=ROOMY,
                derandomize="BENCHKIT_FUZZ" not in os.environ, database=None)  # fmt: skip
seeds = st.integers(0, 2**32)

TASKS = benchkit_tasks()
PIECES = [
    *(b'"', b"\t", b"\n", b"\r", b"\r\n", b",", b";", b"'", b"=", b"\x00", b"../", b"label", b"null", b"true", b"[]"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\u0000", b"NaN", b"-1", b"1e400", b"9" * 400),
    *(b"[" * 5000, b'{"a":' * 5000),
]
VALUES: list[Any] = [
    *(None, True, [], {}, [[]], "", "x", "../x", -1, 0, 2**31, 10**30, 1e308, float("nan"), float("inf")),
    *("\ud800", "\x00", ["x"] * 3, {"x": 1}, "9" * 400, [[[[[[]]]]]]),
]


def damaged(data: bytes, random: Random) -> bytes:
    """A few edits of the kinds that editors, disks and downloads make."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((0, 1, 2, 8, 64, len(data))))
        what = random.randrange(5)
        if what == 0:
            data = data[:start] + data[end:]
        elif what == 1:
            data = data[:start] + random.choice(PIECES) + data[start:]
        elif what == 2:
            data = (
                data[:start]
                + bytes(random.randrange(256) for _ in range(end - start if end - start < 9 else 8))
                + data[end:]
            )
        elif what == 3:
            data = data[:start] + data[start:end] * 2 + data[end:]
        else:
            data = data[:start]
    return data


def reshaped(value: Any, random: Random) -> Any:
    """JSON with one value replaced, dropped or added."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        if random.random() < 0.15:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: reshaped(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        return [*value[:place], reshaped(value[place], random), *value[place + 1 :]]
    return random.choice(VALUES)


def harm(path: Path, random: Random) -> None:
    """Damage one file, as bytes or, if it is JSON, in its structure."""
    data = path.read_bytes()
    if path.suffix == ".json" and random.random() < 0.6:
        path.write_text(json.dumps(reshaped(json.loads(data), random)), "utf-8", "surrogatepass")
    elif path.suffix == ".gz" and random.random() < 0.7:
        path.write_bytes(gzip.compress(damaged(gzip.decompress(data), random)))
    else:
        path.write_bytes(damaged(data, random))


def survives(call: Callable[[], object]) -> None:
    """Success or one line; nothing else."""
    memory = PeakMemory(torch.device("cpu"))
    before = memory.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except benchkit.UserError as error:
            text = str(error)
            assert text.strip()
            assert "\n" not in text.strip(), text
            assert len(text) < 2000, text[:200]
    assert memory.read() - before < GIGABYTES * 2**30


def copied(source: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    return to


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder and data, written once."""
    folder = tmp_path_factory.mktemp("made")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(random_encoder("tiny", vocab, BertConfig(len(vocab), 16, 2, 2, 32, 32), seed=0), folder)
    return folder


@fuzz
@given(seed=seeds)
def test_data(made: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    folder = copied(made / "data", tmp_path / "data")
    file = random.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if random.random() < 0.5:
        file.unlink()
        file = file.with_name(
            file.name.partition(".")[0] + random.choice((".tsv", ".csv", ".tsv.gz", ".jsonl", ".parquet"))
        )
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    harm(file, random)
    survives(lambda: load_data(folder, TASKS))


@fuzz
@given(seed=seeds)
def test_encoders(encoder: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    folder = copied(encoder, tmp_path / "encoder")
    harm(random.choice(sorted(folder.iterdir())), random)
    survives(lambda: load_encoder(folder))


@fuzz
@given(seed=seeds)
def test_records(made: Path, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    folder = copied(made / "run" / "cells", tmp_path / "cells")
    for _ in range(random.choice((1, 3))):
        harm(
            random.choice(sorted(path for path in folder.rglob("*") if path.is_file() and "lock" not in path.name)),
            random,
        )
    said: list[str] = []
    store = CellStore(folder, said.append)
    survives(lambda: [store.load(key) for key in store.keys()])  # noqa: SIM118
    assert all("\n" not in line for line in said)


PROTOCOL = b"""base = "paper"
pooling = "mean"
layers = [0, -1]
phases = ["pretrain", "top"]
[pretrain]
epochs = 3
learning_rate = 1e-3
[top]
trains = "top:2"
average = 0.99
[sst]
train_size = 100
[cnn]
kernel_size = 5
"""


@fuzz
@given(seed=seeds)
def test_protocols(tmp_path: Path, seed: int) -> None:
    file = tmp_path / "own.toml"
    file.write_bytes(damaged(PROTOCOL, Random(seed)))
    survives(lambda: load_file(file, [task.name for task in TASKS], ["baseline", "cnn"]))


COMMANDS = [
    "run",
    "tune",
    "report",
    "compare",
    "repro",
    "plan",
    "explain",
    "predict",
    "export",
    "data",
    "encoders",
    "heads",
    "plugins",
    "cache",
    "doctor",
]
WORDS = [
    *COMMANDS,
    *[
        "check",
        "list",
        "show",
        "--heads",
        "--seeds",
        "--set",
        "--out",
        "--run",
        "--head",
        "--task",
        "--protocol",
        "--preset",
        "--data",
        "--encoder",
    ],
    *[
        "--phases",
        "--dry-run",
        "--format",
        "--difference",
        "--study",
        "baseline",
        "cnn",
        "-1",
        "0",
        "3",
        "10000000000",
        "1e400",
        "../x",
    ],
    *["/dev/null", "/proc/nope", "pretrain.epochs=3", "pretrain.epochs=", "=", "a=b=c", "cnn.channels=1000000000"],
    *["seeds=100000000", "é", "{run}", "{data}", "demo", "frozen", "latex", "json"],
    *("", "x" * 300),
]


@fuzz
@given(seed=seeds)
def test_command_lines(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Words in any order. What would train something is only looked at, by `--dry-run`."""
    from benchkit.cli import cli

    random = Random(seed)
    words = [random.choice(COMMANDS), *(random.choice(WORDS) for _ in range(random.randrange(6)))]
    words = [word.format(run=made / "run", data=made / "data") if word[:1] == "{" else word for word in words]
    if words[0] in ("run", "tune", "export"):
        words += ["--out", str(tmp_path / "out"), "--help"] if words[0] != "run" else ["--dry-run", "--encoder", "demo"]
    monkeypatch.chdir(tmp_path)
    done: list[Any] = []
    survives(lambda: done.append(CliRunner().invoke(cli, words)))
    error = done[0].exception
    assert error is None or isinstance(error, SystemExit | benchkit.UserError), (words, repr(error))
