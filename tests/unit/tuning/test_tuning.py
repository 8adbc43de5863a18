"""The parts of a search that need no training: spaces, budgets, sizes, statistics, files."""

from __future__ import annotations

import dataclasses
import itertools
import json
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from benchkit.analysis.statistics import Paired, paired_differences
from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.protocol import base_protocol, load_file, load_preset, override
from benchkit.core.settings import parse, plain
from benchkit.nn import metrics
from benchkit.tuning.report import best_of_k
from benchkit.tuning.space import Dimension, Space, build_space, parse_size
from benchkit.tuning.storage import absolute, damage_is_one_line, open_storage, shown
from benchkit.tuning.study import Trial, best, check_name, pareto_front, read, read_config
from benchkit.tuning.trial import write_toml

PLUGINS = load_plugins()


def space(*search: str, pins: tuple[str, ...] = (), head: str = "cnn", **fields: Any) -> Space:
    protocol = load_preset("demo", PLUGINS.tasks, PLUGINS.heads)
    protocol = override(protocol, {"phases": ("pretrain",), **fields}, PLUGINS.tasks, PLUGINS.heads)
    spec = PLUGINS.head(head)
    config = spec.configure(protocol.head_options.get(head, {}))
    return build_space(spec, config, protocol, [PLUGINS.task(name) for name in protocol.tasks], search, pins)


def test_a_group_is_its_fields_and_a_pin_takes_one_out() -> None:
    found = space("head", "lr", pins=("cnn.pool", "cnn.linear"))
    assert found.names() == [
        *("cnn.channels", "cnn.wide_channels", "cnn.kernel_size", "cnn.embedding", "cnn.dropout", "cnn.score"),
        "pretrain.learning_rate",
    ]
    assert space("dropout", "cnn.pool").names() == ["cnn.dropout", "cnn.pool"]
    assert space("loss", "sampling", "batch").names() == ["sts.loss", "sampling", "pretrain.batch_size"]
    assert space("lr", phases=("pretrain", "finetune")).names() == ["pretrain.learning_rate", "finetune.learning_rate"]


def test_every_space_holds_its_default() -> None:
    everything = ("head", "lr", "weight_decay", "batch", "schedule", "loss", "sampling")
    far: dict[str, Any] = {
        "pretrain": {"learning_rate": 5.0, "weight_decay": 0.0, "batch_size": 7},
        "cnn": {"linear": 9999},
    }
    none: dict[str, Any] = {}
    for head, fields in itertools.product(PLUGINS.heads, (none, far)):
        for dimension in space(*everything, head=head, **fields).dimensions:
            assert dimension.distribution()._contains(dimension.distribution().to_internal_repr(dimension.default))


@pytest.mark.parametrize(
    ("search", "pins", "parts"),
    [
        (("haed",), (), ["unknown search group or field 'haed'", "did you mean 'head'"]),
        (("cnn.pol",), (), ["unknown search group or field 'cnn.pol'", "did you mean 'cnn.pool'"]),
        (("lr",), ("pretrain.learning_rate",), ["nothing to search for head 'cnn'", "pinned by --set"]),
    ],
)
def test_what_cannot_be_searched_is_one_line(search: tuple[str, ...], pins: tuple[str, ...], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        space(*search, pins=pins)
    assert all(part in str(caught.value) for part in parts)


def test_a_space_survives_json_and_its_grid_is_the_product_of_its_points() -> None:
    found = space("cnn.pool", "cnn.channels", "lr")
    assert parse(Space, json.loads(json.dumps(plain(found)))) == found
    points = list(found.grid())
    assert len(points) == found.grid_size() == 4 * 3 * 3
    assert len({tuple(point.values()) for point in points}) == len(points)
    assert Dimension("x", "int", 8, 2, 32, log=True).points() == (2, 8, 32)


@pytest.mark.parametrize("values", [[0.1, 0.4, 0.4, 0.3], [0.5], [1.0, 2.0, 3.0]])
def test_best_of_k_is_the_mean_over_all_draws(values: list[float]) -> None:
    for point in best_of_k(values):
        tops = [max(draw) for draw in itertools.product(values, repeat=point.k)]
        assert point.mean == pytest.approx(np.mean(tops), abs=1e-12)
        assert point.std == pytest.approx(np.std(tops), abs=1e-7)


def test_paired_differences_find_a_difference_and_none_where_there_is_none() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(2, size=400).astype(float)

    def guesses(accuracy: float) -> np.ndarray:
        return np.stack([np.where(random.random(400) < accuracy, labels, 1 - labels) for _ in range(5)])

    worse, better = guesses(0.6), guesses(0.75)
    found = paired_differences({"a": Paired(labels, worse, better, metrics.accuracy.score)})
    assert set(found) == {"a", "mean"}
    assert found["a"].low < found["a"].value < found["a"].high
    assert found["a"].low > 0.05
    assert found["mean"].p < 0.02
    same = paired_differences({"a": Paired(labels, worse, worse, metrics.accuracy.score)})
    assert (same["a"].value, same["a"].low, same["a"].high, same["a"].p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="do not match"):
        paired_differences({"a": Paired(labels[1:], worse, better, metrics.accuracy.score)})


def test_a_protocol_survives_toml(tmp_path: Path) -> None:
    values = {
        "pretrain": {"learning_rate": 1e-05, "warmup": 0.1},
        "sts": {"loss": "mse", "train_size": 7},
        "cnn": {"dropout": 0.123456789012345678},
        "layers": (0, -1),
        "summary": 'a "quoted" back\\slash, a tab\t and ü',
    }
    protocol = override(base_protocol(), values, PLUGINS.tasks, PLUGINS.heads)
    path = tmp_path / "own.toml"
    path.write_text(write_toml(protocol, ("a comment",)), "utf-8")
    assert load_file(path, PLUGINS.tasks, PLUGINS.heads) == dataclasses.replace(protocol, name="own")


def test_the_front_is_what_no_trial_beats() -> None:
    pairs = [(0.5, 100), (0.4, 100), (0.6, 300), (0.6, 400), (0.55, 500), (0.7, 900)]
    trials = [Trial(i, "COMPLETE", (value, size)) for i, (value, size) in enumerate(pairs)]
    trials.append(Trial(9, "PRUNED", (0.9, 1)))
    assert [trial.number for trial in pareto_front(trials)] == [0, 2, 5]
    assert best(trials) == trials[5]
    assert best([]) is None


def test_sizes_are_read_as_people_write_them() -> None:
    assert [parse_size(text) for text in ("250k", "1.5M", "1200")] == [250_000, 1_500_000, 1200]
    for text in ("many", "-3k", "0", "nan"):
        with pytest.raises(UserError, match="--match-params takes a number"):
            parse_size(text)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("mysql://h/d", ["unknown storage", "journal:PATH", "sqlite:///PATH", "postgresql+psycopg://"]),
        ("studies.db", ["unknown storage"]),
        ("sqlite://", ["names no file"]),
        ("journal:", ["names no file"]),
        ("postgresql+psycopg://me:secret@127.0.0.1:9/x", ["cannot reach the database", "me:***@127.0.0.1"]),
        ("postgresql+psycopg:h", ["is not a URL"]),
        ("postgresql+psycopg:me:secret@h", ["is not a URL", "@h"]),
        ("postgresql://me:secret@h:port/d", ["is not a URL", "me:***@h:port/d"]),
        ("postgres://me:secret@h/d", ["unknown storage", "me:***@h/d"]),
        ("mysql//me:se@cret:secret@h/d", ["unknown storage", "me:***@h/d"]),
        ("mysql://h/d?user=me&password=secret", ["unknown storage", "user=me&password=***"]),
        ("sqlite://me:secret@/", ["names no file"]),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line(url: str, parts: list[str]) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    with pytest.raises(UserError) as caught:
        open_storage(url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_file_that_is_no_journal_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello\nworld\n")
    with pytest.raises(UserError, match="not a journal"):
        open_storage(f"journal:{tmp_path / 'x'}")
    (tmp_path / "y").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="cannot use the database"):
        open_storage(f"sqlite:///{tmp_path / 'y'}")
    with pytest.raises(UserError, match="no studies at"):
        open_storage(f"journal:{tmp_path / 'z'}", create=False)


def test_a_half_written_line_of_a_killed_worker_does_not_spoil_the_journal(tmp_path: Path) -> None:
    url = f"journal:{tmp_path / 'x'}"
    optuna.create_study(study_name="a", storage=open_storage(url).optuna)
    with (tmp_path / "x").open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    optuna.create_study(study_name="b", storage=open_storage(url).optuna)
    assert optuna.get_all_study_names(open_storage(url).optuna) == ["a", "b"]


def test_a_full_disk_is_one_line_that_names_the_journal_and_spoils_nothing(tmp_path: Path) -> None:
    url, size = f"journal:{tmp_path / 'x'}", 200
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        study = optuna.create_study(study_name="a", storage=open_storage(url).optuna)
        with pytest.raises(UserError, match=f"cannot write {tmp_path / 'x'}: File too large"):
            study.set_user_attr("x", "x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    study = optuna.load_study(study_name="a", storage=open_storage(url).optuna)
    study.set_user_attr("x", 1)
    assert optuna.load_study(study_name="a", storage=open_storage(url).optuna).user_attrs == {"x": 1}


def test_urls_mean_the_same_elsewhere_and_hide_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("journal:x/y") == f"journal:{tmp_path}/x/y"
    assert absolute("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"
    assert shown("postgresql+psycopg://me:secret@h/d") == "postgresql+psycopg://me:***@h/d"
    assert shown("postgresql://me@h/d") == "postgresql://me@h/d"


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        '{"op_code": 0}',
        '{"op_code": "x", "worker_id": 1}',
        DEEP,
        '{"op_code": 3, "worker_id": "w", "study_id": 0, "user_attr": ' + DEEP + "}",
    ],
)
def test_a_damaged_journal_is_one_line(line: str, tmp_path: Path) -> None:
    url = f"journal:{tmp_path / 'x'}"
    optuna.create_study(study_name="a", storage=open_storage(url).optuna)
    with (tmp_path / "x").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match="a damaged one") as caught:
        open_storage(url)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", [5, "text", [], {}, {"cell": []}, {"cell": {"key": 1}, "space": 3}, None])
def test_a_damaged_study_is_one_line(value: Any, tmp_path: Path) -> None:
    storage = open_storage(f"journal:{tmp_path / 'x'}")
    optuna.create_study(study_name="a", storage=storage.optuna).set_user_attr("benchkit", value)
    with pytest.raises(UserError, match=r"study 'a' in .* cannot be read") as caught:
        read_config(storage, "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("best", "x"), ("config", 3), ("scores", {"sst": "x"}), ("seconds", [])])
def test_a_damaged_trial_is_an_error_that_says_so(name: str, value: Any, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="a", storage=open_storage(f"journal:{tmp_path / 'x'}").optuna)
    trial = study.ask()
    trial.set_user_attr(name, value)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    with pytest.raises((ValueError, TypeError)):
        read(study.trials[0])


@pytest.mark.parametrize("name", [True, 3, None])
def test_a_study_without_a_name_is_passed_over(name: Any, tmp_path: Path) -> None:
    url = f"journal:{tmp_path / 'x'}"
    optuna.create_study(study_name="a", storage=open_storage(url).optuna)
    text = (tmp_path / "x").read_text().replace('"a"', json.dumps(name))
    (tmp_path / "x").write_text(text)
    with pytest.raises(UserError, match="unknown study"):
        read_config(open_storage(url), "a")


def test_a_number_that_is_out_of_range_is_one_line(tmp_path: Path) -> None:
    storage = open_storage(f"journal:{tmp_path / 'x'}")
    study = optuna.create_study(study_name="a", storage=storage.optuna)
    study.ask().set_user_attr("parameters", float("inf"))
    with pytest.raises(UserError, match="cannot be read"), damage_is_one_line(storage, "a"):
        read(study.trials[0])


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".", "..", "a b\n", "x" * 101, "/tmp/x"])
def test_a_study_s_name_is_no_path(name: str) -> None:
    with pytest.raises(UserError, match="a study's name has") as caught:
        check_name(name)
    assert "\n" not in str(caught.value)
    assert check_name("cnn-2.b_ü") == "cnn-2.b_ü"
