"""Protocols: presets, files, overrides, and each mistake as one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchkit.core.errors import UserError
from benchkit.core.protocol import (
    Phase,
    Protocol,
    TaskOptions,
    base_protocol,
    load_file,
    load_preset,
    override,
    parse_settings,
    presets,
)
from benchkit.core.settings import parse, plain

TASKS, HEADS = ("sst", "quora", "sts"), ("baseline", "recurrent", "cnn")


def changed(**values: Any) -> Protocol:
    return override(base_protocol(), values, TASKS, HEADS)


def from_settings(*pairs: str) -> Protocol:
    return override(base_protocol(), parse_settings(pairs), TASKS, HEADS)


def from_toml(folder: Path, text: str) -> Protocol:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_file(path, TASKS, HEADS)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    assert from_toml(tmp_path, '\ufeffbase = "demo"\npooling = "max"\n').pooling == "max"


def test_a_file_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nested too deeply"):
        from_toml(tmp_path, "a = " + "[" * 5000 + "]" * 5000)


def test_the_issue_names_these_presets() -> None:
    assert {"demo", "paper", "strong"} <= set(presets())


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_complete(name: str) -> None:
    protocol = load_preset(name, TASKS, HEADS)
    assert protocol.name == name
    assert protocol.summary
    assert protocol.tasks == TASKS
    assert protocol.heads
    assert protocol.phases == (("pretrain",) if name == "frozen" else ("pretrain", "finetune"))
    assert parse(Protocol, json.loads(json.dumps(plain(protocol)))) == protocol


def test_paper_is_the_report_to_the_letter() -> None:
    paper = load_preset("paper", TASKS, HEADS)
    assert (
        paper.phase("pretrain").epochs,
        paper.phase("pretrain").batch_size,
        paper.phase("pretrain").learning_rate,
    ) == (10, 64, 1e-3)
    assert (
        paper.phase("finetune").epochs,
        paper.phase("finetune").batch_size,
        paper.phase("finetune").learning_rate,
    ) == (25, 8, 1e-6)
    assert paper.pooling == "cls"
    assert paper.layers == (-1,)
    assert paper.pair_input == "separate"
    assert paper.options("quora") == TaskOptions(train_size=8544)
    assert paper.options("sst") == paper.options("sts") == TaskOptions()
    assert paper.heads == HEADS


def test_only_demo_brings_its_own_encoder_and_data() -> None:
    sources = {name: load_preset(name, TASKS, HEADS) for name in presets()}
    assert (sources["demo"].encoder, sources["demo"].data) == ("embedded", "demo")
    assert (sources["paper"].encoder, sources["paper"].data) == ("", "")


def test_the_reports_negative_control_can_be_said() -> None:
    protocol = override(
        load_preset("paper", TASKS, HEADS), parse_settings(["pretrain.learning_rate=0.1"]), TASKS, HEADS
    )
    assert protocol.phase("pretrain") == Phase(trains="head", learning_rate=0.1)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'papre'.*did you mean 'paper'"):
        load_preset("papre", TASKS, HEADS)


def test_a_file_changes_its_base_and_nothing_else(tmp_path: Path) -> None:
    text = (
        'base = "paper"\npooling = "mean"\n[finetune]\nepochs = 2\n[sts]\nloss = "mse"\n'
        "[cnn]\ndropout = 0.1\n[quora]\ndev_size = 50\n"
    )
    paper, mine = load_preset("paper", TASKS, HEADS), from_toml(tmp_path, text)
    assert mine.name == "mine"
    assert mine.pooling == "mean"
    assert mine.phase("finetune") == Phase(epochs=2, batch_size=8, learning_rate=1e-6)
    assert mine.phase("pretrain") == paper.phase("pretrain")
    assert mine.options("sts") == TaskOptions(loss="mse")
    assert mine.options("quora") == TaskOptions(train_size=8544, dev_size=50)
    assert mine.head_options == {"cnn": {"dropout": 0.1}}


def test_a_file_without_a_base_starts_from_the_defaults(tmp_path: Path) -> None:
    mine = from_toml(tmp_path, "seeds = 5\n")
    assert plain(mine) == {**plain(base_protocol()), "name": "mine", "seeds": 5}


def test_dotted_settings_reach_phase_task_and_head() -> None:
    protocol = from_settings(
        "pooling=max",
        "layers=1,-1",
        "phases=pretrain",
        "pretrain.batch_size=16",
        "finetune.schedule=cosine",
        "quora.train_size=100",
        "cnn.kernel_size=5",
        "cnn.dropout=0.1",
    )
    assert protocol.pooling == "max"
    assert protocol.layers == (1, -1)
    assert protocol.phases == ("pretrain",)
    assert protocol.phase("pretrain") == Phase(trains="head", batch_size=16)
    assert protocol.phase("finetune").schedule == "cosine"
    assert protocol.options("quora").train_size == 100
    # A head's values are read as its config's types when it is configured.
    assert protocol.head_options == {"cnn": {"kernel_size": "5", "dropout": "0.1"}}


def test_the_last_setting_of_a_field_wins() -> None:
    assert from_settings("pretrain.epochs=2", "pretrain.epochs=3").phase("pretrain").epochs == 3


def test_later_overrides_keep_earlier_ones() -> None:
    first = from_settings("quora.train_size=9", "cnn.dropout=0.1", "finetune.epochs=2")
    second = override(first, parse_settings(["quora.dev_size=8", "cnn.channels=4", "finetune.clip=1"]), TASKS, HEADS)
    assert second.options("quora") == TaskOptions(train_size=9, dev_size=8)
    assert second.head_options["cnn"] == {"dropout": "0.1", "channels": "4"}
    assert (second.phase("finetune").epochs, second.phase("finetune").clip) == (2, 1.0)
    assert first.options("quora") == TaskOptions(train_size=9), "the first protocol is frozen"


def test_a_protocol_survives_json() -> None:
    protocol = from_settings("layers=0,-1", "quora.train_size=9", "cnn.dropout=0.1", "finetune.warmup=0.1", "tasks=sts")
    assert parse(Protocol, json.loads(json.dumps(plain(protocol)))) == protocol


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("poolign=mean", "did you mean 'pooling'"),
        ("pretrain.epoch=3", "did you mean 'pretrain.epochs'"),
        ("pretrian.epochs=3", "did you mean 'pretrain'"),
        ("quora.trainsize=3", "did you mean 'quora.train_size'"),
        ("bert.width=3", "unknown table 'bert'"),
        ("pretrain.epochs.more=3", "pretrain.epochs takes a whole number"),
        ("pretrain=3", "pretrain"),
        ("task_options.quora=3", "task_options"),
        ("head_options=3", "head_options"),
        ("pretrain.epochs=ten", "pretrain.epochs takes a whole number"),
        ("pretrain.epochs=2.5", "pretrain.epochs takes a whole number"),
        ("pretrain.schedule=step", "constant, linear, cosine"),
        ("pretrain.epochs=0", r"pretrain.*epochs"),
        ("pretrain.batch_size=-8", r"pretrain.*batch_size"),
        ("finetune.learning_rate=nan", r"finetune.*learning_rate"),
        ("finetune.learning_rate=-1", r"finetune.*learning_rate"),
        ("finetune.learning_rate=inf", r"finetune.*learning_rate"),
        ("finetune.weight_decay=nan", r"finetune.*weight_decay"),
        ("finetune.clip=-1", r"finetune.*clip"),
        ("finetune.warmup=1", r"finetune.*warmup"),
        ("finetune.warmup=nan", r"finetune.*warmup"),
        ("quora.train_size=-1", r"quora.*train_size"),
        ("phases=finetune,pretrain", "order pretrain, finetune"),
        ("phases=pretrain,pretrain", "each once"),
        ("phases=pretrian", "did you mean 'pretrain'"),
        ("phases=", "phases is empty"),
        ("pooling=men", "did you mean 'mean'"),
        ("sampling=random", "proportional, round_robin, by_size, square_root, annealed"),
        ("pair_input=both", "separate, joint"),
        ("precision=fp16", "auto, fp32, bf16"),
        ("seeds=0", "seeds is from 1 to"),
        ("layers=", "layers is empty"),
        ("layers=last", r"layers\[0\] takes a whole number"),
        ("max_length=2", "max_length must be at least 4"),
        ("pretrain.epochs", "field=value"),
        ("=3", "field=value"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_settings(setting)
    assert "\n" not in str(caught.value)


def test_a_field_cannot_be_both_a_value_and_a_table() -> None:
    with pytest.raises(UserError, match="pretrain"):
        from_settings("pretrain=3", "pretrain.epochs=2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pooling = ", "not TOML"),
        ("pooling = 3", "pooling takes text, not 3"),
        ("seeds = true", "seeds takes a whole number"),
        ("poolign = 'mean'", "did you mean 'pooling'"),
        ("[pretrian]\nepochs = 3", "did you mean 'pretrain'"),
        ("[pretrain]\nepochs = 0", "epochs"),
        ("[pretrain]\nlearning_rate = nan", "learning_rate"),
        ("[pretrain.more]\nepochs = 3", "pretrain.more"),
        ("[heads]\nbaseline = 1", "heads"),
        ("base = 'papre'", "did you mean 'paper'"),
        ("base = 3", "preset"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_toml(tmp_path, text)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.toml: No such file"):
        load_file(tmp_path / "missing.toml", TASKS, HEADS)
    with pytest.raises(UserError, match="directory"):
        load_file(tmp_path, TASKS, HEADS)
    broken = tmp_path / "latin.toml"
    broken.write_bytes("pooling = 'é'".encode("latin-1"))
    with pytest.raises(UserError, match=r"cannot read protocol .*latin\.toml") as caught:
        load_file(broken, TASKS, HEADS)
    assert "\n" not in str(caught.value)


def test_python_values_are_checked_like_text() -> None:
    assert changed(layers=[-1, -2], pretrain={"epochs": 3.0}).phase("pretrain").epochs == 3
    with pytest.raises(UserError, match=r"pretrain\.epochs takes a whole number, not '3'?"):
        changed(pretrain={"epochs": "3x"})


def test_phases_are_data(tmp_path: Path) -> None:
    """A file defines phases by listing names that have a table; the others stay known, after them."""
    text = """
    phases = ["warm", "deep"]
    [warm]
    trains = "head"
    epochs = 2
    [deep]
    trains = "top:2"
    """
    protocol = from_toml(tmp_path, text)
    assert protocol.phases == ("warm", "deep")
    assert protocol.phase("deep").top(6) == 2
    assert list(protocol.phase_settings) == ["warm", "deep", "pretrain", "finetune"]
    assert override(protocol, {"phases": "deep"}, TASKS, HEADS).phases == ("deep",)
    assert override(protocol, {"deep": {"epochs": "4"}}, TASKS, HEADS).phase("deep").epochs == 4
    with pytest.raises(UserError, match="unknown phase 'warmth'"):
        override(protocol, {"phases": "warmth"}, TASKS, HEADS)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('phases = ["sst"]\n[sst]\ntrain_size = 3', "unknown|name of a task"),
        ('phases = ["new"]', "unknown phase 'new'"),
        ('[pretrain]\ntrains = "top:0"', "pretrain.trains is head, top:k with a number of layers"),
        ('[pretrain]\ntrains = "bottom"', "pretrain.trains is head, top:k with a number of layers"),
    ],
)
def test_a_phase_that_makes_no_sense_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        from_toml(tmp_path, text)


def test_more_layers_than_there_are() -> None:
    with pytest.raises(UserError, match="trains = 'top:9', but the encoder has 6 layers"):
        Phase(trains="top:9").top(6)
    assert [Phase(trains=trains).top(6) for trains in ("head", "top:6", "all")] == [0, 6, 6]


def test_an_identity_gives_the_protocol_again() -> None:
    protocol = load_preset("paper", TASKS, HEADS)
    tasks = [{"name": name, "loss": "head:mine", "joint": name == "sts"} for name in protocol.tasks]
    identity = json.loads(json.dumps({"protocol": protocol.identity(), "tasks": tasks}))
    again = Protocol.from_identity(identity, {"quora": {"train": 8544}})
    assert again.options("quora") == replace(protocol.options("quora"), pair_input="separate")
    assert again.joint("sts")
    assert again.identity() == protocol.identity()


def test_an_identity_of_an_older_record_is_read() -> None:
    """Phases were names, with a table each beside them that did not say what it trains."""
    protocol = load_preset("paper", TASKS, HEADS)
    old = protocol.identity()
    tables = {each.pop("name"): each for each in old.pop("phases")}
    for each in tables.values():
        del each["trains"]
    tasks = [{"name": name, "loss": "bce"} for name in protocol.tasks]
    again = Protocol.from_identity({"protocol": {**old, "phases": list(tables), **tables}, "tasks": tasks})
    assert again.identity() == protocol.identity()


def test_pairs_may_be_joint_for_one_task_alone() -> None:
    protocol = changed(sts={"pair_input": "joint"})
    assert [protocol.joint(name) for name in TASKS] == [False, False, True]
    assert changed(pair_input="joint", sts={"pair_input": "separate"}).joint("sts") is False
