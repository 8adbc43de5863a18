"""`benchkit speed`: what is timed, tables and files; in sizes that take no time."""

from __future__ import annotations

import csv
import json
import mmap
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from benchkit.cli import main
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.experiment.config import Request
from benchkit.inspect.heads import Setup
from benchkit.inspect.trace import encoder_macs
from benchkit.speed import Limits
from benchkit.speed.measure import Others, measure, multiply_rate, watch_memory
from benchkit.speed.setup import BenchmarkPoint, PreparedBenchmark, grid, make_inputs

QUICK = Limits(warmup=1, iterations=2, seconds=0.002, repeats=2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setup() -> Setup:
    torch.set_num_threads(1)
    heads, tasks = ("baseline", "attention", "layer-mix"), ("sst", "sts")
    return Setup.open(Request(heads=heads, tasks=tasks, encoder="demo", settings=("layers=-1",)), load_plugins())


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    quick = ["--warmup", "1", "--min-iterations", "2", "--min-time", "0.02", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["benchkit", "speed", *quick, *arguments])
    try:
        main()
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"modes": ["infr"]}, "unknown mode 'infr'; did you mean 'infer'?"),
        ({"batches": ["0"]}, "--batch-sizes takes whole numbers from 1 up, not '0'"),
        ({"lengths": ["513"]}, "--seq-lens takes whole numbers from 3 to 512, or mixed, not '513'"),
        ({"precisions": ["fp16"]}, "precision is one of auto, fp32, bf16, not 'fp16'"),
        ({"modes": []}, "nothing to time"),
        ({"graph": True}, "--cuda-graph: there are no CUDA graphs on cpu; leave it out, or use --device cuda"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], complaint: str) -> None:
    values: dict[str, Any] = {"modes": ["infer"], "batches": ["8"], "lengths": ["16"], "precisions": ["fp32"]}
    with pytest.raises(UserError) as found:
        grid(**{**values, **changes}, device=CPU, longest=512)
    assert str(found.value).startswith(complaint)


def test_points_are_named_once_and_heads_train_in_fp32() -> None:
    points = grid(["head", "infer"], ["1", "8"], ["4", "mixed"], ["fp32", "bf16"], CPU, longest=512)
    assert len(points) == 2 * 2 * 2 + 2 * 2
    assert [point.mode for point in points] == ["infer"] * 8 + ["head"] * 4
    assert {point.precision for point in points if point.mode == "head"} == {"fp32"}


def test_inputs_have_the_lengths_that_were_asked_for(setup: Setup) -> None:
    even = make_inputs(setup.encoder, setup.shapes, BenchmarkPoint("infer", 5, "9", "fp32"))
    assert (len(even.tokenized), int(even.tokenized.offsets[-1])) == (15, 135)  # sst has one sentence, sts two
    assert sorted(row for rows in even.rows.values() for row in rows.flatten().tolist()) == list(range(15))
    mixed = make_inputs(setup.encoder, setup.shapes, BenchmarkPoint("infer", 200, "mixed", "fp32"))
    lengths = mixed.tokenized.lengths.float()
    assert 10 < lengths.median() < 16
    assert mixed.tokenized.offsets[-1] == lengths.sum()


@pytest.mark.parametrize(
    ("mode", "precision"),
    [*((mode, "fp32") for mode in ("infer", "train", "head", "encode")), ("infer", "bf16"), ("train", "bf16")],
)
def test_every_mode_times_heads_of_every_kind(setup: Setup, mode: Any, precision: Any) -> None:
    point = BenchmarkPoint(mode, 2, "mixed" if precision == "fp32" else "6", precision)
    result = measure(setup, [point], QUICK)
    assert [row.error for row in result.rows] == ["", "", ""]
    names = ["pooled", "tokens", "layers"] if mode == "encode" else list(setup.plan.heads)
    assert [row.name for row in result.rows] == names
    for row in result.rows:
        assert row.latency is not None
        assert row.work is not None
        assert row.memory is not None
        assert 0 < row.latency.p50 <= row.latency.p90 <= row.latency.p95 <= row.latency.p99
        assert row.memory.process > 0
        assert row.joules is None  # of a CPU nothing is known
        if mode in ("infer", "train"):
            assert row.head_share is not None
            assert 0 < row.head_share < 1
        else:
            assert row.head_share is None
    assert result.rows[0].ratio is None
    assert result.rows[1].ratio is not None


def test_encoding_is_no_step_that_could_be_captured() -> None:
    with pytest.raises(UserError, match="leave out --mode encode"):
        grid(["head", "encode"], ["8"], ["16"], ["fp32"], torch.device("cuda"), graph=True, longest=512)


@pytest.mark.parametrize("mode", ["infer", "train", "head"])
@pytest.mark.parametrize("length", ["6", "mixed"])
def test_inputs_of_fixed_shape_are_the_same_inputs(setup: Setup, mode: Any, length: str) -> None:
    """What a graph is captured of, here run as it is."""
    points = [BenchmarkPoint(mode, 3, length, "fp32", graph=graph) for graph in (False, True)]
    plain, fixed = (PreparedBenchmark.of(setup, point) for point in points)
    for name in setup.plan.heads:
        shape = setup.shapes[1]
        if mode != "head":
            for prepared in (fixed, plain):
                prepared.encoder.eval()
            found, expected = (each._live(each.assembly(name), shape) for each in (fixed, plain))
            torch.testing.assert_close(found.pooled, expected.pooled, atol=1e-5, rtol=1e-5)
    row = measure(setup, [BenchmarkPoint(mode, 3, length, "fp32", graph=True)], QUICK).rows[0]
    assert row.error == ""
    assert row.head_share is None


def test_flops_are_those_of_real_word_pieces(setup: Setup) -> None:
    """Baseline on sst (one sentence) and sts (two), 2 examples each, 6 word pieces a sentence; hidden 128."""
    head = {"sst": 128 * 400 + 400 * 5, "sts": 2 * (128 * 400 + 400 * 13)}
    forth = 2 * sum(head.values())
    # Back: gradients of all weights; of what went in, for the trunk only if the encoder is trained.
    trunk = 2 * 3 * 128 * 400
    encoder = encoder_macs(setup.encoder.config, [6] * 6)
    expected = {"infer": encoder + forth, "train": 3 * (encoder + forth), "head": 3 * forth - trunk}
    for mode, macs in expected.items():
        (row, *_) = measure(setup, [BenchmarkPoint(mode, 2, "6", "fp32")], QUICK).rows  # type: ignore[arg-type]
        assert row.work is not None
        assert row.work.flops == 2 * macs
        assert (row.work.examples, row.work.sentences, row.work.tokens) == (4, 6, 36)
    (row, *_) = measure(setup, [BenchmarkPoint("encode", 2, "6", "fp32")], QUICK).rows
    assert row.work is not None
    assert row.work.flops == 2 * encoder


def test_timing_leaves_the_encoder_as_it_was(setup: Setup) -> None:
    before = setup.encoder.fingerprint
    prepared = PreparedBenchmark.of(setup, BenchmarkPoint("train", 2, "4", "fp32"))
    prepared.make("baseline")(lambda name: None)
    assert setup.encoder.fingerprint == before
    assert not setup.encoder.model.training
    assert prepared.encoder.fingerprint != before


def test_table_files_and_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = [
        "--heads",
        "baseline,recurrent",
        "--mode",
        "infer,train",
        "--batch-sizes",
        "1,2",
        "--seq-lens",
        "4",
        "--precision",
        "fp32",
    ]
    assert run(monkeypatch, *arguments, "--out", str(tmp_path)) == 0
    shown = capsys.readouterr()
    assert "4 points: at least" in shown.err
    shown_lines = [line for line in shown.out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, shown_lines)) <= 112  # two repeats make for long numbers
    assert all(f"{mode}, batch 2, 4 word pieces, fp32" in shown.out for mode in ("infer", "train"))
    (table,) = tmp_path.glob("speed-*-fp32-torch*.csv")
    header, *entries = csv.reader(table.read_text().splitlines())
    columns = ["samples_per_sec", "step_time", "batch_size"]
    timm = ["head", *(f"infer_{name}" for name in columns), "seq_len", *(f"train_{name}" for name in columns)]
    assert header[: len(timm) + 2] == [*timm, "param_count", "gmacs"]
    assert header[-1] == "error"
    assert [line[0] for line in entries] == ["baseline", "baseline", "recurrent", "recurrent"]
    values = json.loads(table.with_suffix(".json").read_text())
    assert values["environment"]["packages"]["torch"] == version("torch")  # torch itself also says which CUDA
    assert values["rows"][0]["joules"] is None
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


HUNGRY = """
from dataclasses import dataclass
import torch
from torch import nn
from benchkit import HeadSpec, hookimpl

@dataclass(frozen=True)
class Config:
    pass

class Hungry(nn.Module):
    def __init__(self, config, hidden, tasks):
        super().__init__()
        self.outs = nn.ModuleDict({task.name: nn.Linear(hidden * task.segments, task.out) for task in tasks})

    def forward(self, features, task):
        if len(features.pooled) > 2:
            torch.empty(2**60)
        return self.outs[task](features.pooled.flatten(1))

@hookimpl
def benchkit_heads():
    return [HeadSpec("hungry", "Takes all memory for more than two.", Hungry, Config, trunk="")]
"""


def test_what_does_not_fit_has_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    arguments = ["--heads", "hungry,baseline", "--head-file", str(tmp_path / "hungry.py"), "--out", str(tmp_path)]
    small = ["--mode", "infer", "--batch-sizes", "2,4", "--seq-lens", "3", "--tasks", "sst", "--precision", "fp32"]
    assert run(monkeypatch, *arguments, *small) == 1
    assert "hungry: infer, batch 4, 3 word pieces, fp32: out of memory" in capsys.readouterr().err
    (table,) = tmp_path.glob("*.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["head"], row["infer_batch_size"]) for row in rows] == [
        ("hungry", "2"), ("hungry", "4"), ("baseline", "2"), ("baseline", "4"),
    ]  # fmt: skip
    assert [bool(row["infer_samples_per_sec"]) for row in rows] == [True, False, True, True]
    assert rows[1]["error"].startswith("infer: out of memory")


def test_memory_is_that_of_the_work() -> None:
    def touch() -> None:  # pages of its own: a tensor may get resident ones that an earlier test freed
        with mmap.mmap(-1, 64 * 2**20) as block:
            for offset in range(0, len(block), mmap.PAGESIZE):
                block[offset] = 1

    before = watch_memory(CPU, lambda: None)
    peak = watch_memory(CPU, touch)
    assert peak.process - before.process > 48 * 2**20 or peak.since_start
    assert peak.allocated is None


def test_others_are_noticed() -> None:
    others = Others()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    cores = others.cores()
    assert cores is None or cores > 0.05


def test_the_rate_of_matrix_products_is_plausible() -> None:
    assert 1e8 < multiply_rate(CPU, "fp32", 0.01) < 1e15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", ["infer", "train", "head", "encode"])
@pytest.mark.parametrize("graph", [False, True])
def test_a_gpu_is_timed_by_its_own_events(mode: Any, graph: bool) -> None:
    if graph and mode == "encode":
        pytest.skip("no step that could be captured")
    heads = ("baseline", "layer-mix", *(() if graph else ("token-rnn",)))
    setup = Setup.open(Request(heads=heads, device="cuda"), load_plugins())
    point = BenchmarkPoint(mode, 4, "mixed", "bf16" if mode != "head" else "fp32", graph=graph)
    for row in measure(setup, [point], QUICK).rows:
        assert row.error == ""
        assert row.memory is not None
        assert row.memory.allocated
        assert row.memory.reserved
