"""What `benchkit heads` says of a head is what the head does: layers, shapes, parameters, diagrams."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchkit.cli import main
from benchkit.core.errors import UserError
from benchkit.core.features import Layers, Pooled, Tokens
from benchkit.core.head import HeadSpec, count
from benchkit.core.plugins import load_plugins
from benchkit.core.task import TaskShape
from benchkit.inspect.diagram import Figure, figure, lay_out, mermaid, svg
from benchkit.inspect.structure import Layer, Structure, structure

TASKS = (TaskShape("sst", 1, 5), TaskShape("quora", 2, 2), TaskShape("sts", 2, 0, 0.0, 5.0))
HEADS = load_plugins().heads


@dataclass(frozen=True)
class Config:
    width: int = 6


class Attention(nn.Module):
    """A learned query over the word pieces, a raw parameter, and one that nobody uses."""

    def __init__(self, config: Config, hidden: int, tasks: tuple[TaskShape, ...]) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(hidden, config.width), nn.Tanh())
        self.query = nn.Parameter(torch.ones(config.width))
        self.spare = nn.Parameter(torch.ones(10))
        self.branches = nn.ModuleDict({task.name: nn.Linear(config.width * task.segments, task.out) for task in tasks})

    def forward(self, features: Tokens, task: str) -> Tensor:
        keys = self.trunk(features.tokens)
        weights = (keys @ self.query).masked_fill(~features.mask, float("-inf")).softmax(-1)
        vectors = (weights.unsqueeze(-1) * keys).sum(2)
        result: Tensor = self.branches[task](vectors.flatten(1))
        return result


class Mix(nn.Module):
    def __init__(self, config: Config, hidden: int, tasks: tuple[TaskShape, ...], layers: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.branches = nn.ModuleDict({task.name: nn.Linear(hidden * task.segments, task.out) for task in tasks})

    def forward(self, features: Layers, task: str) -> Tensor:
        mixed = (self.weights.softmax(0).view(-1, 1) * features.layers).sum(2)
        result: Tensor = self.branches[task](mixed.flatten(1))
        return result


ATTENTION = HeadSpec("attention", "", Attention, Config, reads=Tokens)
MIX = HeadSpec("mix", "", Mix, Config, reads=Layers, trunk="")
ALL = [*HEADS.values(), ATTENTION, MIX]
every_head = pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)


def look(spec: HeadSpec, tasks: tuple[TaskShape, ...] = TASKS) -> Structure:
    return structure(spec, spec.configure({}), 16, tasks, 3)


def draw(spec: HeadSpec) -> Figure:
    return figure(look(spec), "encoder demo", "2 layers of 16")


def found(layers: tuple[Layer, ...], kind: str) -> Layer:
    (layer,) = [each for each in layers if each.kind == kind]
    return layer


def test_the_baseline_is_seen_as_it_is() -> None:
    sst, _, sts = look(HEADS["baseline"]).branches
    shared = sst.layers[: look(HEADS["baseline"]).shared]
    assert [layer.kind for layer in shared] == ["pooled", "Dropout", "Linear", "Dropout"]
    assert found(sts.layers, "pooled").shape == ("batch", "segment", "hidden")
    assert sts.layers[2].shape == ("batch", "segment", "400")
    assert (sts.layers[2].detail, sts.layers[2].parameters) == ("16 → 400, no bias", 6400)
    assert [(layer.path, layer.kind) for layer in sts.layers[4:]] == [
        ("branches.sts", "Linear"),
        ("", "cosine similarity"),
    ]
    assert sts.parameters == 400 * 13 + 13


def test_functions_masks_and_raw_parameters_are_seen() -> None:
    seen = look(ATTENTION)
    layers = seen.branches[1].layers
    product = found(layers, "matrix product")
    assert (product.path, product.parameters, product.shape) == ("query", 6, ("batch", "segment", "time"))
    assert found(layers, "sum").detail == "over time"
    assert set(found(layers, "product").inputs) == {layers.index(found(layers, k)) for k in ("Tanh", "softmax")}
    assert seen.common == 16 * 6 + 6 + 6
    assert seen.idle == 10


def test_a_layer_axis_has_its_name() -> None:
    layers = look(MIX).branches[0].layers
    assert found(layers, "layers").shape == ("batch", "segment", "layer", "hidden")
    assert found(layers, "sum").detail == "over layer"


@every_head
@pytest.mark.parametrize("tasks", [TASKS, TASKS[:1], TASKS[2:]], ids=["three", "sst", "sts"])
def test_parameters_add_up_to_the_head_s(spec: HeadSpec, tasks: tuple[TaskShape, ...]) -> None:
    seen = look(spec, tasks)
    total = count(spec.build(spec.configure({}), 16, tasks, 3))
    assert seen.parameters["head"] == seen.parameters["trunk"] + seen.parameters["branches"] == total
    assert seen.common + seen.idle + sum(branch.parameters for branch in seen.branches) == total


@every_head
def test_the_svg_stands_alone_and_nothing_overlaps(spec: HeadSpec) -> None:
    drawn = draw(spec)
    text = svg(drawn)
    ElementTree.fromstring(text)
    assert "href" not in text
    assert "@import" not in text
    layout = lay_out(drawn)
    boxes = [slot for slot in layout.slots if slot.box]
    for one, two in combinations(boxes, 2):
        apart = abs(one.x - two.x) >= (one.width + two.width) / 2
        assert apart or one.bottom <= two.top or two.bottom <= one.top, (one.box, two.box)
    for slot in boxes:
        assert slot.x - slot.width / 2 >= 0
        assert slot.x + slot.width / 2 <= layout.width
        assert 0 <= slot.top < slot.bottom <= layout.height
        assert all(below.top > slot.bottom for below in slot.below), "arrows point up"


@every_head
def test_the_mermaid_text_names_each_box_once_and_links_only_these(spec: HeadSpec) -> None:
    lines = mermaid(draw(spec)).splitlines()
    assert lines[0] == "flowchart BT"
    ids = [match[1] for line in lines if (match := re.fullmatch(r'\s+(\w+)\["[^"]*"\]:::\w+', line))]
    assert len(ids) == len(set(ids))
    links = [line.split() for line in lines if "-->" in line]
    assert {end for source, _, target in links for end in (source, target)} == set(ids)
    assert sum("subgraph" in line for line in lines) == sum(line.strip() == "end" for line in lines)


def test_a_head_that_fails_says_for_which_task() -> None:
    class Fails(Attention):
        def forward(self, features: Pooled, task: str) -> Tensor:
            raise KeyError(task)

    with pytest.raises(UserError, match="head 'fails' fails on task 'sst': KeyError: 'sst'"):
        look(HeadSpec("fails", "", Fails, Config))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchkit", *arguments])
    main()


def test_show_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "heads", "show", "cnn", "--set", "cnn.channels=16", "--svg", str(tmp_path / "cnn.svg"))
    text = capsys.readouterr().out
    for each in ("Conv1d 1 → 16, kernel 3", "16 (default 8)", "2 to 32, log", "bce for sts", "64 in the trunk"):
        assert each in text
    assert max(map(len, text.splitlines())) <= 100
    assert "Conv1d 1 → 16" in (tmp_path / "cnn.svg").read_text("utf-8")
    call(monkeypatch, "heads", "show", "cnn", "--mermaid", "--tasks", "sts")
    assert capsys.readouterr().out.startswith("flowchart BT\n")


@pytest.mark.parametrize("name", HEADS)
def test_eighty_columns_hold_every_head_without_a_broken_path(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    call(monkeypatch, "heads", "show", name)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "\u00a0" not in text
    seen = structure(HEADS[name], HEADS[name].configure({}), 16, TASKS, 3)
    paths = {layer.path for branch in seen.branches for layer in branch.layers if not layer.is_function}
    assert paths - {""} <= set(text.split())


def test_a_picture_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "head.svg").write_text("old")
    done = subprocess.run(
        [sys.executable, "-B", "-m", "benchkit", "heads", "show", "cnn", "--svg", str(tmp_path / "head.svg")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert (tmp_path / "head.svg").read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "head.svg"]


def test_the_list_agrees_with_what_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "heads")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    listed = {line.split()[0]: line.split()[2] for line in lines[2:] if line.split()[:1] and line.split()[0] in HEADS}
    assert set(listed) == set(HEADS)
    for name in ("baseline", "recurrent"):
        call(monkeypatch, "heads", "show", name)
        assert f"{listed[name]} parameters: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show"], "name a head"),
        (["show", "cmn"], "did you mean 'cnn'"),
        (["show", "cnn", "--set", "cnn.chanels=3"], "unknown field 'cnn.chanels'"),
        (["show", "cnn", "--svg", "/dev/null/a.svg"], "cannot write /dev/null/a.svg"),
        (["--encoder", "demmo"], "did you mean 'demo'"),
        (["--tasks", "qora"], "did you mean 'quora'"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as leave:
        call(monkeypatch, "heads", *arguments)
    assert leave.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
