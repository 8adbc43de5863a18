"""Phases as data: the top layers alone, phases of one's own, and what lies below them encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import benchkit
from benchkit import Record
from benchkit.store.cells import CellStore

SIZES = {"train": 96, "dev": 40, "test": 40}
SMALL: dict[str, Any] = {
    "pretrain.epochs": 1,
    "finetune.epochs": 2,
    "finetune.batch_size": 16,
    "finetune.learning_rate": 1e-3,
    **{f"{task}.{split}_size": size for task in ("sst", "sts") for split, size in SIZES.items()},
}


def run(out: Path, **settings: Any) -> Record:
    names = ("feature_cache", "encoder_dtype", "protocol", "on_event", "heads")
    options: dict[str, Any] = {"heads": "baseline"}
    options |= {name: settings.pop(name) for name in names if name in settings}
    changes = {name.replace("__", "."): value for name, value in settings.items()}
    result = benchkit.run(
        out=out,
        seeds=1,
        tasks="sst,sts",
        encoder="demo",
        precision="fp32",
        settings={**({} if "protocol" in options else SMALL), **changes},
        **options,
    )
    (record,) = result.cells
    return record


def losses(record: Record) -> torch.Tensor:
    return torch.tensor([point.loss for phase in record.phases for point in phase.curve])


@pytest.mark.parametrize("head", ["baseline", "layer-mix", "token-cnn"])
@pytest.mark.parametrize("top", ["top:1", "top:2"])
def test_stored_lower_layers_give_the_losses_of_the_live_path(tmp_path: Path, head: str, top: str) -> None:
    settings = {"finetune__trains": top, "layers": "0,1,-1", "heads": head}
    stored = run(tmp_path / "stored", **settings)
    live = run(tmp_path / "live", **settings, feature_cache=False)
    assert stored.phases[1].order_hash == live.phases[1].order_hash
    torch.testing.assert_close(losses(stored), losses(live), atol=1e-4, rtol=1e-4)


def test_only_the_top_layers_change(tmp_path: Path) -> None:
    record = run(tmp_path, finetune__trains="top:1", encoder_dtype="fp32")
    before = benchkit.load_encoder("demo").model.state_dict()
    after = CellStore(tmp_path / "cells").encoder_weights(record.key)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name.rpartition(".")[0].split(".")[0] + "." + name.split(".")[1] for name in changed} == {"layers.1"}


def test_low_rank_changes_are_merged_into_the_encoder(tmp_path: Path) -> None:
    record = run(tmp_path, finetune__trains="lora:4", encoder_dtype="fp32")
    before = benchkit.load_encoder("demo").model.state_dict()
    after = CellStore(tmp_path / "cells").encoder_weights(record.key)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("layers.") and before[name].ndim == 2}
    for name in changed:
        assert torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-4) <= 4


THREE = """
encoder = "demo"
data = "demo"
phases = ["deep", "head-again", "low-rank", "top"]
[deep]
trains = "all"
epochs = 1
learning_rate = 1e-3
[head-again]
trains = "head"
epochs = 2
[low-rank]
trains = "lora:2"
epochs = 1
learning_rate = 1e-3
[top]
trains = "top:1"
epochs = 1
[sst]
train_size = 96
dev_size = 40
test_size = 40
[sts]
train_size = 96
dev_size = 40
test_size = 40
"""


def test_phases_of_ones_own_in_any_order(tmp_path: Path) -> None:
    """After a phase that changed the encoder, what is frozen is encoded anew: stored features would be the old ones."""
    protocol = tmp_path / "three.toml"
    protocol.write_text(THREE)
    record = run(tmp_path / "a", protocol=protocol)
    assert [phase.name for phase in record.phases] == ["deep", "head-again", "low-rank", "top"]
    live = run(tmp_path / "b", protocol=protocol, feature_cache=False)
    torch.testing.assert_close(losses(record), losses(live), atol=1e-4, rtol=1e-4)


class Stop(Exception):
    pass


@pytest.mark.parametrize("phase", ["deep", "head-again", "low-rank", "top"])
def test_an_interrupted_phase_ends_with_the_same_numbers(tmp_path: Path, phase: str) -> None:
    protocol = tmp_path / "three.toml"
    protocol.write_text(THREE.replace("epochs = 1", "epochs = 2"))

    def interrupt(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and (event["phase"], event["epoch"]) == (phase, 1):
            raise KeyboardInterrupt

    whole = run(tmp_path / "a", protocol=protocol)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", protocol=protocol, on_event=interrupt)
    again = run(tmp_path / "b", protocol=protocol)
    assert losses(again).tolist() == losses(whole).tolist()
    assert [each.scores for each in again.phases] == [each.scores for each in whole.phases]


def test_pairs_of_one_task_as_one_input(tmp_path: Path) -> None:
    record = run(tmp_path, **{"sts.pair_input": "joint", "finetune__epochs": 1})
    joint = {task["name"]: task["joint"] for task in record.identity["tasks"]}
    assert joint == {"sst": False, "sts": True}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"finetune__trains": "top:9"}, "finetune.trains = 'top:9', but the encoder has 2 layers"),
        ({"finetune__trains": "top:1", "layers": "0"}, "trains layers above 1, but head 'baseline' reads none above 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(tmp_path: Path, settings: dict[str, str], line: str) -> None:
    with pytest.raises(benchkit.UserError, match=line):
        run(tmp_path, **settings)


def test_a_phase_has_losses_of_its_own(tmp_path: Path) -> None:
    record = run(tmp_path / "a", finetune__losses__sts="mse")
    plain = run(tmp_path / "b")
    first, second = (
        [point.loss for point in each.phases[1].curve if (point.task, point.split) == ("sts", "dev")]
        for each in (record, plain)
    )
    assert max(first) < 0.2 < min(second)  # squared errors on the unit scale; cross-entropies are above those
    assert record.phases[0].curve == plain.phases[0].curve
    parts = record.identity["tasks"], plain.identity["tasks"]
    assert [each[0]["source"] for each in parts] == [each[0]["source"] for each in parts[::-1]]
    with pytest.raises(benchkit.UserError, match="unknown loss of sts 'hinge'"):
        run(tmp_path, finetune__losses__sts="hinge")


def test_ranking_needs_pairs_encoded_apart(tmp_path: Path) -> None:
    with pytest.raises(benchkit.UserError, match="needs a pair task that is encoded apart"):
        run(tmp_path, finetune__ranking=1, pair_input="joint")
    record = run(tmp_path, finetune__ranking=1, finetune__ranking_only=True)
    assert record.status == "ok"
    assert record.phases[1].steps == 2 * -(-96 // 16)  # the batches of sts alone
    assert record.phases[1].best_epoch == 2
