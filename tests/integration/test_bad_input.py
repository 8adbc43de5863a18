"""What a user gets wrong is answered by one line that says what, where and what to do, and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from benchkit.cli import main

CASES = {
    "head": (["--heads", "cmn"], ["unknown head 'cmn'", "did you mean 'cnn'", "baseline", "recurrent"]),
    "task": (["--tasks", "sst,qora"], ["unknown task 'qora'", "did you mean 'quora'"]),
    "preset": (["--preset", "papr"], ["unknown preset 'papr'", "did you mean 'paper'", "strong"]),
    "field": (["--set", "pretrain.epoch=3"], ["unknown field 'pretrain.epoch'", "did you mean 'pretrain.epochs'"]),
    "table": (["--set", "pretrian.epochs=3"], ["unknown table 'pretrian'", "did you mean 'pretrain'"]),
    "top field": (["--set", "poling=mean"], ["unknown field 'poling'", "did you mean 'pooling'"]),
    "head field": (["--set", "cnn.drop=0.1"], ["unknown field 'cnn.drop'", "cnn.dropout"]),
    "type": (["--set", "pretrain.epochs=many"], ["pretrain.epochs takes a whole number, not 'many'"]),
    "value": (["--set", "pretrain.batch_size=0"], ["batch_size", "at least 1"]),
    "choice": (["--set", "recurrent.cell=lstn"], ["recurrent.cell is one of lstm, gru, rnn"]),
    "no equals": (["--set", "pooling"], ["--set takes field=value"]),
    "pooling": (["--set", "pooling=median"], ["pooling is one of cls, mean, max, pooler, not 'median'", "mean"]),
    "loss": (["--set", "sts.loss=hinge"], ["unknown loss of sts 'hinge'", "mse"]),
    "phase": (["--phases", "finetun"], ["unknown phase 'finetun'", "did you mean 'finetune'"]),
    "phase order": (["--phases", "finetune,pretrain"], ["phases run in the order pretrain, finetune"]),
    "seeds": (["--seeds", "three"], ["--seeds takes a number of seeds"]),
    "many seeds": (["--seeds", "100000000"], ["--seeds takes at most 10,000 seeds"]),
    "more seeds": (["--seeds", "9" * 4000], ["--seeds takes at most 10,000 seeds"]),
    "seeds of a protocol": (["--set", "seeds=100000000"], ["seeds is from 1 to 10,000"]),
    "many jobs": (["--jobs", "1000000000"], ["'--jobs'", "1<=x<=1024"]),
    "many threads": (["--threads", "1000000000"], ["'--threads'", "1<=x<=1024"]),
    "many epochs": (["--set", f"pretrain.epochs={10**30}"], ["epochs is at most 1,000,000"]),
    "wide batches": (["--set", f"pretrain.batch_size={10**30}"], ["batch_size is at most 16,777,216"]),
    "too large a head": (["--set", "cnn.channels=1000000000"], ["head 'cnn' with", "parameters", "GiB of memory"]),
    "far too large a head": (["--set", f"cnn.channels={10**30}"], ["head 'cnn' cannot be built"]),
    "too large filters": (["--set", "token-cnn.largest=1000000000", "--heads", "token-cnn"], ["at most 512"]),
    "data": (["--data", "no/such/folder"], ["no/such/folder", "not"]),
    "encoder": (["--encoder", "no/such/folder"], ["no encoder at no/such/folder", "config.json"]),
    "encoder name": (["--encoder", "demmo"], ["unknown encoder 'demmo'", "did you mean 'demo'"]),
    "layers": (["--set", "layers=7", "--heads", "baseline"], ["layer"]),
    "impossible head": (["--set", "cnn.dropout=5"], ["head 'cnn' cannot be built", "dropout"]),
    "field of a head not run": (["--heads", "baseline", "--set", "cnn.dropotu=0"], ["unknown field 'cnn.dropotu'"]),
    "two protocols": (["--preset", "demo", "--protocol", "own.toml"], ["--preset and --protocol exclude each other"]),
    "executor": (["--executor", "procs"], ["unknown executor 'procs'", "did you mean 'processes'"]),
    "local and jobs": (["--jobs", "2", "--executor", "local"], ["--executor local", "leave out --jobs 2"]),
    "study and local": (["--from-study", "cnn", "--executor", "local"], ["--from-study", "leave out --executor local"]),
    "study outside": (["--from-study", "../cnn"], ["a study's name has", "not '../cnn'"]),
    "protocol": (["--protocol", "no.toml"], ["cannot read protocol no.toml"]),
    "needs data": (["--preset", "paper", "--encoder", "demo"], ["names no data", "--data"]),
    "needs encoder": (["--preset", "paper", "--data", "demo"], ["names no encoder", "--encoder"]),
}


@dataclass(frozen=True)
class Done:
    returncode: int
    stderr: str


@pytest.fixture
def benchkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """The command line as its entry point runs it, in this process: its exit code and its stderr."""

    def call(*arguments: str) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["benchkit", *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as left:
            code = left.code
        assert isinstance(code, int)
        return Done(code, capsys.readouterr().err)

    return call


def assert_one_line(done: Done, *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("benchkit: error: ")
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_code_2(name: str, tmp_path: Path, benchkit: Callable[..., Done]) -> None:
    arguments, parts = CASES[name]
    assert_one_line(benchkit("run", *arguments), *parts)
    assert not (tmp_path / "results").exists()  # nothing half-written


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(benchkit: Callable[..., Done]) -> None:
    assert_one_line(benchkit("run", "--device", "cuda"), "--device cuda", "--device cpu")


def test_unknown_option_is_a_usage_error_with_a_suggestion(benchkit: Callable[..., Done]) -> None:
    assert_one_line(benchkit("run", "--head", "cnn"), "--heads", "benchkit run --help")


def test_a_search_of_too_many_trials(benchkit: Callable[..., Done]) -> None:
    assert_one_line(benchkit("tune", "--head", "cnn", "--trials", "1000000000"), "--trials is from 1 to 100,000")
    assert_one_line(benchkit("tune", "--head", "cnn", "--jobs", "1000000000"), "1<=x<=1024")


def test_too_large_an_allocation(monkeypatch: pytest.MonkeyPatch, benchkit: Callable[..., Done]) -> None:
    monkeypatch.setattr("benchkit.inspect.doctor.examine", lambda: torch.empty(2**50))
    assert_one_line(benchkit("doctor"), "out of memory", "allocate memory")


def test_a_cache_that_cannot_be(monkeypatch: pytest.MonkeyPatch, benchkit: Callable[..., Done]) -> None:
    monkeypatch.setenv("BENCHKIT_CACHE", "/proc/nope")
    assert_one_line(benchkit("run", "--heads", "baseline", "--keep-encoder", "none"), "/proc/nope")


def test_a_name_that_the_system_refuses(benchkit: Callable[..., Done]) -> None:
    assert_one_line(benchkit("report", "x" * 300), "x" * 300, "too long")
    assert_one_line(benchkit("run", "--protocol", "x" * 300), "x" * 300)
    assert_one_line(benchkit("data", "check", "x" * 300), "x" * 300)


HEADS = {
    "raises at import": ("raise ImportError('no such thing')", ["my_head.py", "ImportError: no such thing"]),
    "leaves at import": ("import sys; sys.exit(3)", ["my_head.py", "SystemExit: 3"]),
    "syntax": ("def", ["my_head.py", "SyntaxError"]),
    "offers nonsense": (
        "from benchkit import hookimpl\n@hookimpl\ndef benchkit_heads():\n    return ['cnn']",
        ["my_head.py", "benchkit_heads returned 'cnn', not a HeadSpec"],
    ),
    "misspelt hook": (
        "from benchkit import hookimpl\n@hookimpl\ndef benchkit_head():\n    return []",
        ["my_head.py", "unknown hook 'benchkit_head'", "did you mean 'benchkit_heads'"],
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_file_that_does_not_load(name: str, tmp_path: Path, benchkit: Callable[..., Done]) -> None:
    source, parts = HEADS[name]
    (tmp_path / "my_head.py").write_text(source)
    assert_one_line(benchkit("run", "--head-file", "my_head.py"), *parts)


def test_a_head_file_that_is_not_there(benchkit: Callable[..., Done]) -> None:
    assert_one_line(benchkit("run", "--head-file", "none.py"), "none.py")


def test_no_space_left_is_one_line_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A limit on file sizes stands in for a full disk: the system refuses the write in the same place."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "sys.argv = ['benchkit', 'run', '--heads', 'baseline', '--jobs', '1'];"
        "from benchkit.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "BENCHKIT_CACHE": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "cache") in done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("lock", "settings.json")]
    assert not files, files
