"""A record goes through JSON and back unchanged; what is no record is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from benchkit.core.record import SCHEMA, CurvePoint, Failure, PhaseResult, Record, Score


def a_record(**changes: Any) -> Record:
    phase = PhaseResult(
        "pretrain",
        epochs=2,
        best_epoch=1,
        steps=26,
        batch_size=8,
        order_hash="0123456789abcdef",
        train_seconds=1.5,
        eval_seconds=0.25,
        scores=(Score("sst", "dev", "accuracy", 1 / 3, 1.25, 9),),
        curve=(CurvePoint("pretrain", 1, "sst", "train", "accuracy", 0.1, 2.5),),
        events=("pretrain epoch 1: sst predicts only class '3' on dev",),
    )
    values: dict[str, Any] = {
        "key": "k", "head": "cnn", "seed": 3, "status": "ok", "identity": {"seed": 3, "head": {"name": "cnn"}},
        "parameters": {"head": 10}, "environment": {"torch": "2"},
        "phases": (phase, dataclasses.replace(phase, name="finetune")),
    }  # fmt: skip
    return Record(**{**values, **changes})


def through_json(record: Record) -> Record:
    return Record.from_dict(json.loads(json.dumps(record.to_dict())))


def test_a_record_survives_json() -> None:
    record = a_record()
    assert through_json(record) == record
    assert isinstance(through_json(record).phases[0].scores, tuple)


def test_a_failed_record_without_phases_survives_too() -> None:
    record = Record("k", "cnn", 0, "failed", {}, failure=Failure("head", "pretrain", "ValueError: no"))
    assert through_json(record) == record


def test_numbers_survive_to_the_last_bit() -> None:
    score = through_json(a_record()).phases[0].scores[0]
    assert score.value == 1 / 3


def test_a_nan_stays_one() -> None:
    record = a_record(
        phases=(PhaseResult("pretrain", 1, 0, 1, 1, "", 0.0, 0.0, (Score("t", "dev", "m", math.nan, math.inf, 1),)),)
    )
    score = through_json(record).phases[0].scores[0]
    assert math.isnan(score.value)
    assert math.isinf(score.loss)


def test_a_record_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        a_record().status = "failed"  # type: ignore[misc]


def test_what_is_given_out_is_a_copy() -> None:
    record = a_record()
    record.to_dict()["identity"]["head"]["name"] = "other"
    assert record.identity["head"]["name"] == "cnn"


def test_another_schema_is_named() -> None:
    with pytest.raises(ValueError, match=f"schema {SCHEMA + 1}.* reads {SCHEMA}"):
        Record.from_dict({**a_record().to_dict(), "schema": SCHEMA + 1})


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        None,
        {"schema": SCHEMA},
        {"schema": SCHEMA, "phases": []},
        {"schema": SCHEMA, "phases": 3},
        {**a_record().to_dict(), "phases": [{}]},
        {**a_record().to_dict(), "phases": ["pretrain"]},
        {**a_record().to_dict(), "seed": "one"},
    ],
    ids=["empty", "list", "null", "bare", "no key", "number", "empty phase", "text phase", "text seed"],
)
def test_what_is_no_record_is_a_value_error(data: Any) -> None:
    with pytest.raises(ValueError, match="record"):
        Record.from_dict(data)
