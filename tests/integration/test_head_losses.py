"""A head that brings a loss of its own, and an auxiliary loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import benchkit
from benchkit.cli import cli

HEAD = '''
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from benchkit import HeadSpec, hookimpl, option
from benchkit.nn.blocks import finish, joined


@dataclass(frozen=True)
class Config:
    width: int = option(32, low=16, high=64)
    smoothing: float = option(0.1, low=0.0, high=0.3)
    penalty: float = option({penalty}, low=0.0, high=1.0)


class Smooth(nn.Module):
    def __init__(self, config, hidden, tasks):
        super().__init__()
        self.config = config
        self.shapes = {{task.name: task for task in tasks}}
        self.trunk = nn.Linear(hidden, config.width)
        width = {{task.name: config.width * task.segments for task in tasks}}
        self.branches = nn.ModuleDict({{task.name: nn.Linear(width[task.name], task.out) for task in tasks}})

    def forward(self, features, task):
        return finish(self.branches[task](joined(torch.tanh(self.trunk(features.pooled)))), self.shapes[task])


def smoothed(outputs, labels, shape):
    """Cross-entropy with smoothed labels."""
    return F.cross_entropy(outputs, labels, label_smoothing=0.1)


def loss(config, shape):
    return smoothed if shape.classes else ""


def sparse(head, features, outputs, labels, shape):
    """A price for large activations of the trunk."""
    return head.config.penalty * torch.tanh(head.trunk(features.pooled)).abs().mean()


@hookimpl
def benchkit_heads():
    return [HeadSpec("smooth", "Label smoothing and a sparse trunk.", Smooth, Config, loss=loss, auxiliary=sparse)]
'''


def run(folder: Path, penalty: float, name: str, **options: Any) -> benchkit.Record:
    file = folder / f"smooth{name}.py"
    file.write_text(HEAD.format(penalty=penalty))
    sizes = {f"{task}.{split}_size": 64 for task in ("sst", "sts") for split in ("train", "dev", "test")}
    result = benchkit.run(
        "smooth",
        head_files=[file],
        tasks="sst,sts",
        seeds=1,
        phases="pretrain",
        encoder="demo",
        precision="fp32",
        out=folder / name,
        settings={"pretrain.epochs": 2, **sizes, **options},
    )
    return result.cells[0]


def test_it_is_trained_with_both_and_named(tmp_path: Path) -> None:
    record = run(tmp_path, 0.0, "plain")
    assert record.status in ("ok", "collapsed")
    losses = {task["name"]: task["loss"] for task in record.identity["tasks"]}
    assert losses["sst"] == "head:smoothed"
    assert not losses["sts"].startswith("head:")
    priced = run(tmp_path, 1.0, "priced")
    assert priced.key != record.key
    first, second = record.phases[0].curve, priced.phases[0].curve
    assert [each.loss for each in first] != [each.loss for each in second]


def test_the_protocols_loss_goes_before_it(tmp_path: Path) -> None:
    record = run(tmp_path, 0.0, "named", **{"sst.loss": "cross_entropy"})
    assert {task["name"]: task["loss"] for task in record.identity["tasks"]}["sst"] == "cross_entropy"


@pytest.mark.slow
def test_it_passes_the_contract(tmp_path: Path) -> None:
    file = tmp_path / "smooth.py"
    file.write_text(HEAD.format(penalty=0.1))
    done = CliRunner().invoke(cli, ["heads", "check", str(file)])
    assert done.exit_code == 0, done.output
