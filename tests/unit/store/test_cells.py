"""A cell is finished when its record is whole; everything damaged counts as absent."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from benchkit.core.errors import UserError
from benchkit.core.record import PhaseResult, Record, Score
from benchkit.store.cells import CellStore

COLUMNS: dict[str, list[Any]] = {
    "task": ["sst", "sst", "sts"],
    "split": ["dev", "test", "test"],
    "id": ["1", "2", "é"],
    "label": [3.0, float("nan"), None],
    "prediction": [2.0, 4.0, float("nan")],
    "score": [0.5, 0.25, 4.75],
}
WEIGHTS = {"trunk.weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)}


def record(key: str = "k") -> Record:
    scores = (Score("sst", "dev", "accuracy", 0.1 + 0.2, 1.5, 10),)
    phase = PhaseResult("pretrain", 2, 1, 20, 64, "h", 1.0, 0.5, scores, (), ("dull",))
    return Record(key, "cnn", 3, "ok", {"head": {"kernel": 3}}, {"head": 12}, phases=(phase,))


class Store(CellStore):
    """One that remembers what it logged."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        super().__init__(root, self.lines.append)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cells")


def test_a_saved_cell_is_loaded(store: Store) -> None:
    assert store.load("k") is None
    saved = store.save(record(), COLUMNS, WEIGHTS)
    assert saved == dataclasses.replace(record(), predictions_sha256=saved.predictions_sha256)
    assert store.load("k") == saved
    assert store.keys() == ["k"]
    weights = store.weights("k")
    assert weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(weights[name], WEIGHTS[name]) for name in WEIGHTS)
    assert store.lines == []


def test_predictions_keep_what_they_are(store: Store) -> None:
    store.save(record(), COLUMNS, {})
    frame = store.predictions("k")
    assert list(frame) == list(COLUMNS)
    assert frame["task"].tolist() == COLUMNS["task"]
    assert frame["id"].tolist() == COLUMNS["id"]
    assert frame["score"].tolist() == COLUMNS["score"]
    table = pq.read_table(store.root / "k" / "predictions.parquet")
    assert table["label"].null_count == 2  # NaN is no label
    assert table["prediction"].null_count == 0  # but a prediction may be NaN
    assert math.isnan(table["prediction"][2].as_py())
    assert pq.read_metadata(store.root / "k" / "predictions.parquet").row_group(0).column(0).compression == "ZSTD"


def test_equal_predictions_are_equal_files(store: Store) -> None:
    first, second = (store.save(record(key), COLUMNS, {}) for key in "ab")
    assert first.predictions_sha256 == second.predictions_sha256
    changed = store.save(record("c"), {**COLUMNS, "score": [0.5, 0.25, 4.5]}, {})
    assert changed.predictions_sha256 != first.predictions_sha256


def test_no_rows_and_wrong_columns(store: Store) -> None:
    store.save(record(), {name: [] for name in COLUMNS}, {})
    assert len(store.predictions("k")) == 0
    with pytest.raises(ValueError, match="columns"):
        store.save(record(), {"task": ["sst"]}, {})


@pytest.mark.parametrize("name", ["record.json", "predictions.parquet"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_truncated_cell_counts_as_absent(store: Store, name: str, part: float) -> None:
    store.save(record(), COLUMNS, WEIGHTS)
    path = store.root / "k" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert store.load("k") is None
    (line,) = store.lines
    assert "counts as not run" in line
    store.save(record(), COLUMNS, WEIGHTS)
    assert store.load("k") is not None


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b'{"schema": 1}', b'{"schema": 99, "phases": []}', b"\xff\xfe", b'{"schema": 1, "phases": 3}'],
)
def test_a_record_that_is_none_counts_as_absent(store: Store, content: bytes) -> None:
    store.save(record(), COLUMNS, {})
    (store.root / "k" / "record.json").write_bytes(content)
    assert store.load("k") is None
    assert len(store.lines) == 1


def test_another_cells_files_are_not_served(store: Store) -> None:
    for key in "ab":
        store.save(record(key), {**COLUMNS, "score": [float(ord(key)), 0.0, 0.0]}, WEIGHTS)
    for name in ("record.json", "predictions.parquet"):
        original = (store.root / "a" / name).read_bytes()
        (store.root / "a" / name).write_bytes((store.root / "b" / name).read_bytes())
        assert store.load("a") is None
        (store.root / "a" / name).write_bytes(original)
    assert store.load("a") is not None
    for name in ("record.json", "predictions.parquet"):
        (store.root / "a" / name).write_bytes((store.root / "b" / name).read_bytes())
    assert store.load("a") is None
    (store.root / "b" / "weights.safetensors").replace(store.root / "a" / "weights.safetensors")
    with pytest.raises(UserError, match="another cell"):
        store.weights("a")


def test_missing_or_truncated_weights_and_predictions_are_one_line(store: Store) -> None:
    store.save(record(), COLUMNS, WEIGHTS)
    for name, read in (("weights.safetensors", store.weights), ("predictions.parquet", store.predictions)):
        path = store.root / "k" / name
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(UserError, match="run the cell again") as error:
            read("k")
        assert "\n" not in str(error.value)
        path.unlink()
        with pytest.raises(UserError, match="run the cell again"):
            read("k")


STATE: dict[str, Any] = {
    "epoch": 3,
    "model": {"w": torch.arange(5.0)},
    "order": "shuffled",
    "rng": torch.get_rng_state(),
}


def test_a_checkpoint_comes_back_and_goes_when_the_cell_is_finished(store: Store) -> None:
    assert store.load_checkpoint("k") is None
    store.save_checkpoint("k", STATE)
    loaded = store.load_checkpoint("k")
    assert loaded is not None
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert torch.equal(loaded["rng"], STATE["rng"])
    store.save(dataclasses.replace(record(), status="failed"), COLUMNS, {})
    assert store.load_checkpoint("k") is not None
    store.save(record(), COLUMNS, {})
    assert store.load_checkpoint("k") is None
    assert store.lines == []


@pytest.mark.parametrize("part", [0.0, 0.005, 0.03, 0.5, 0.999])
def test_a_truncated_checkpoint_is_none(store: Store, part: float) -> None:
    store.save_checkpoint("k", STATE)
    path = store.root / "k" / "checkpoint.pt"
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert store.load_checkpoint("k") is None
    assert len(store.lines) == 1


def test_a_flipped_bit_in_a_checkpoint_is_noticed(store: Store) -> None:
    store.save_checkpoint("k", STATE)
    path = store.root / "k" / "checkpoint.pt"
    content = path.read_bytes()
    for at in range(0, len(content), len(content) // 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert store.load_checkpoint("k") is None


def test_a_killed_process_leaves_the_last_checkpoint_and_no_half_record(store: Store) -> None:
    code = f"""if True:
        import os, signal, sys, time
        sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        import torch
        from benchkit.store.cells import CellStore
        from test_cells import COLUMNS, record

        def save_for_ever():
            store = CellStore(Path({str(store.root)!r}))
            weights = {{"w": torch.zeros(300_000)}}
            for epoch in range(1_000_000):
                store.save_checkpoint("k", {{"epoch": epoch, "w": torch.full((300_000,), float(epoch))}})
                store.save(record("done"), {{**COLUMNS, "score": [float(epoch), 0.0, 0.0]}}, weights)

        for delay in sys.stdin:  # a fork each, so that torch is imported once
            if not (child := os.fork()):
                save_for_ever()
            while not Path({str(store.root / "k" / "checkpoint.pt")!r}).exists():
                time.sleep(0.001)
            time.sleep(float(delay))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print("killed", flush=True)
    """
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(20):
            print(0.0137 * i, file=process.stdin, flush=True)
            assert process.stdout.readline() == "killed\n"
            state = store.load_checkpoint("k")
            if state is not None:
                assert bool((state["w"] == state["epoch"]).all())
            # A record is whole, or was being replaced: then the cell counts as not run.
            done = store.load("done")
            assert (done is None) == (len(store.lines) == 1 or not store.keys())
            store.lines.clear()
        process.stdin.close()
    assert store.load_checkpoint("k") is not None  # some got so far
    store.save_checkpoint("k", STATE)
    assert [path.name for path in (store.root / "k").iterdir()] == ["checkpoint.pt"]


def test_processes_that_save_one_cell_do_no_harm(store: Store) -> None:
    code = f"""if True:
        import sys
        sys.path[:0] = [{str(Path(__file__).parents[2])!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        from benchkit.store.cells import CellStore
        from test_cells import COLUMNS, WEIGHTS, record
        store = CellStore(Path({str(store.root)!r}), print)
        for i in range(30):
            mine = store.save(record(), {{**COLUMNS, "score": [float(sys.argv[1]), float(i), 0.0]}}, WEIGHTS)
            assert store.load("k") is not None
    """
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "12"]
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, "")
    assert store.load("k") is not None


def test_a_lock_keeps_others_out(store: Store) -> None:
    with store.lock("k") as held:
        assert held
        with store.lock("k", wait=False) as second:
            assert not second
        with store.lock("other", wait=False) as other:
            assert other
        store.save(record(), COLUMNS, {})  # the holder is the one that saves


def test_a_note_keeps_the_traceback(store: Store) -> None:
    try:
        raise ValueError("no such thing")
    except ValueError as error:
        path = store.note("k", error)
    assert path.read_text().splitlines()[-1] == "ValueError: no such thing"
    assert "Traceback" in path.read_text()
