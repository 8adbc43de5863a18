"""How soon the command line answers, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("arguments", ["--help", "plugins", "heads", "run --dry-run"])
def test_start(benchmark: BenchmarkFixture, arguments: str) -> None:
    command = [sys.executable, "-m", "benchkit", *arguments.split()]
    benchmark.pedantic(lambda: subprocess.run(command, capture_output=True, check=True), rounds=5)
