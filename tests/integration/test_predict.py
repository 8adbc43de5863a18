"""`benchkit predict`: the numbers that the run stored, however and in whatever company a text comes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.course import call, run, score, write_course_files

from benchkit.core.errors import UserError
from benchkit.core.plugins import load_plugins
from benchkit.core.record import Record
from benchkit.data import load_data
from benchkit.encoder import save_encoder
from benchkit.experiment.workspace import open_encoder
from benchkit.predict.model import Loader, Model, of_head, one, open_run, predict
from benchkit.store.cells import CellStore

PAIR = ("A boy is hiding a ball.", "A girl is dropping a sack.")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_course_files(tmp_path_factory.mktemp("course") / "data")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(folder, data, heads=["baseline", "cnn"], seeds=2, phases=["pretrain"])
    return folder


@pytest.fixture(scope="module")
def store(out: Path) -> CellStore:
    return open_run(out, pytest.fail)


def loader(store: CellStore) -> Loader:
    return Loader(store, load_plugins(), torch.device("cpu"))


def rows(store: CellStore, record: Record, task: str, split: str = "dev") -> pd.DataFrame:
    frame = store.predictions(record.key)
    return frame[(frame["task"] == task) & (frame["split"] == split)].reset_index(drop=True)


def examples(data: Path, task: str) -> list[tuple[str, ...]]:
    return list(load_data(data, [load_plugins().task(task)])[task]["dev"].texts)


def values(model: Model, task: str, texts: list[tuple[str, ...]]) -> list[float]:
    return [score(answer.to_dict(model.tasks[task].texts)) for answer in model.predict(task, texts)]


@pytest.mark.parametrize("head", ["baseline", "cnn"])
@pytest.mark.parametrize("task", ["sst", "quora", "sts"])
def test_the_numbers_are_the_stored_ones_to_the_last_bit(store: CellStore, data: Path, head: str, task: str) -> None:
    for record in of_head(store, head):
        model = loader(store).load(record)
        answers = model.predict(task, examples(data, task))
        stored = rows(store, record, task)
        assert [answer.value for answer in answers] == stored["prediction"].tolist()
        shares = [max(a.probabilities.values()) if a.probabilities else a.value for a in answers]
        assert shares == stored["score"].tolist()


@pytest.mark.parametrize("task", ["sst", "sts"])
def test_alone_in_other_company_and_twice_it_is_the_same(store: CellStore, data: Path, task: str) -> None:
    model = loader(store).load(one(store, "cnn", None, ""))
    texts = examples(data, task)
    together = values(model, task, texts)
    assert [values(model, task, [each])[0] for each in texts[:12]] == together[:12]
    assert values(model, task, texts[::-1]) == together[::-1]
    assert values(model, task, [*texts[:3], *texts[:3]]) == together[:3] * 2
    assert model.predict(task, []) == []


def test_without_a_seed_it_is_the_best_on_dev(store: CellStore) -> None:
    records = of_head(store, "baseline")
    assert [record.seed for record in records] == [0, 1]
    best = one(store, "baseline", None, "")
    assert best.dev_mean == max(each.dev_mean for each in records)
    assert one(store, "baseline", 1, "").seed == 1
    assert one(store, "", None, best.key[:9]) == best


def test_the_average_is_that_of_probabilities(store: CellStore, data: Path) -> None:
    models = [loader(store).load(record) for record in of_head(store, "baseline")]
    texts = examples(data, "sst")[:5]
    mean = predict(models, "sst", texts)
    each = [[list((a.probabilities or {}).values()) for a in model.predict("sst", texts)] for model in models]
    np.testing.assert_allclose([list((a.probabilities or {}).values()) for a in mean], np.mean(each, axis=0), atol=1e-6)


def test_cells_that_differ_by_more_than_seeds_must_be_named(tmp_path: Path, data: Path) -> None:
    for dropout in (0.1, 0.2):
        settings = {"baseline.dropout": dropout, "pretrain.epochs": 1}
        run(tmp_path, data, heads=["baseline"], seeds=1, phases=["pretrain"], tasks=["sst"], settings=settings)
    with pytest.raises(UserError, match="differ in settings, data or code: name one with --cell KEY"):
        one(open_run(tmp_path, pytest.fail), "baseline", None, "")


def test_files_of_every_kind_say_the_same(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [PAIR, ('He said "no", twice.', "She agreed, once.")]
    (tmp_path / "a.txt").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    (tmp_path / "a.tsv").write_text("Sentence1\tSENTENCE2\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text1", "question2"), *((i, *pair) for i, pair in enumerate(pairs))])
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"question1": a, "text2": b}) + "\n" for a, b in pairs))
    asked = ("predict", "--run", out, "--head", "cnn", "--task", "quora", "--format", "jsonl")
    found = {}
    for kind in ("txt", "tsv", "csv", "jsonl"):
        assert call(monkeypatch, *asked, "--input", tmp_path / f"a.{kind}") == 0
        found[kind] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.pop("id") for row in found["csv"]] == ["0", "1"]
    monkeypatch.setattr("sys.stdin", io.StringIO((tmp_path / "a.txt").read_text()))
    assert call(monkeypatch, *asked) == 0
    found["stdin"] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert call(monkeypatch, *asked, *(text for pair in pairs for text in pair)) == 0
    found["arguments"] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({json.dumps(each) for each in found.values()}) == 1
    assert found["txt"][0]["probabilities"].keys() == {"different", "duplicate"}


def test_csv_and_the_table(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("predict", "--run", out, "--head", "cnn", "--task", "sst", "This is a superb picture. " * 9, "Bad, bad.")
    assert call(monkeypatch, *asked, "--out", tmp_path / "a.csv") == 0
    with (tmp_path / "a.csv").open(newline="") as file:
        header, *found = csv.reader(file)
    classes = load_plugins().task("sst").classes
    assert header == ["sentence", "prediction", "label", *classes]
    assert [row[1] == classes[int(row[2])] for row in found] == [True, True]
    assert all(sum(map(float, row[3:])) == pytest.approx(1) for row in found)
    assert call(monkeypatch, *asked, "--format", "table") == 0
    table = capsys.readouterr().out
    assert len(table.splitlines()) == 4
    assert max(map(len, table.splitlines())) <= 100
    assert "…" in table


MISTAKES = {
    "no run": (["--run", "nowhere", "--head", "cnn"], "no finished cells in nowhere"),
    "no run named": (["--head", "cnn"], "name a run's folder with --run"),
    "no head": (["--run", "RUN"], "name a head with --head: baseline, cnn"),
    "head": (["--run", "RUN", "--head", "cmn"], "did you mean 'cnn'"),
    "seed": (["--run", "RUN", "--head", "cnn", "--seed", "7"], "unknown seed '7'"),
    "cell": (["--run", "RUN", "--cell", "zzzz"], "unknown cell 'zzzz'"),
    "cell and head": (["--run", "RUN", "--cell", "zz", "--head", "cnn"], "leave out --head and --seed"),
    "no task": (["--run", "RUN", "--head", "cnn", "text"], "name a task with --task: sst, quora, sts"),
    "task": (["--run", "RUN", "--head", "cnn", "--task", "stt"], "did you mean 'sts'"),
    "odd": (["--run", "RUN", "--head", "cnn", "--task", "sts", "one"], "a pair is two arguments"),
    "empty": (["--run", "RUN", "--head", "cnn", "--task", "sst", " "], "argument 1 is empty"),
    "no file": (["--run", "RUN", "--head", "cnn", "--task", "sst", "--input", "no.txt"], "cannot read no.txt"),
    "suffix": (["--run", "RUN", "--head", "cnn", "--task", "sst", "--input", "no.doc"], "unknown kind of file"),
    "out": (["--run", "RUN", "--head", "cnn", "--task", "sst", "--out", "a.pdf", "x"], "name it .csv or .jsonl"),
    "both": (["--run", "RUN", "--head", "cnn", "--task", "sst", "--input", "a.txt", "x"], "not from both"),
    "encoder": (["--run", "RUN", "--head", "cnn", "--task", "sst", "--encoder", "no/where"], "cannot be opened"),
    "folder": (["--run", "RUN", "--head", "cnn", "--format", "cs224n"], "name their folder with --out"),
    "cs224n": (["--run", "RUN", "--head", "cnn", "--format", "cs224n", "--task", "sst"], "leave out --task"),
    "average": (["--run", "RUN", "--head", "cnn", "--average", "--seed", "0", "x"], "leave out --seed and --cell"),
    "model": (["--model", "RUN", "x"], "holds no benchkit.json"),
    "model and run": (["--model", "RUN", "--run", "RUN", "x"], "leave out --run"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(
    name: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, part = MISTAKES[name]
    assert call(monkeypatch, "predict", *(str(out) if each == "RUN" else each for each in arguments)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("benchkit: error: ")
    assert part in last


def test_another_encoder_of_the_same_name_is_refused(store: CellStore, tmp_path: Path) -> None:
    encoder = open_encoder("demo", load_plugins())
    encoder.model.word.weight.data[0, 0] += 1
    save_encoder(encoder, tmp_path / "demo")
    with pytest.raises(UserError, match="is not the one that cnn seed 0 was trained on"):
        Loader(store, load_plugins(), torch.device("cpu"), str(tmp_path / "demo")).load(of_head(store, "cnn")[0])


def test_every_fine_tuned_encoder_is_kept_where_that_is_asked_for(tmp_path: Path, data: Path) -> None:
    options: dict[str, Any] = {"heads": ["baseline"], "seeds": 1, "tasks": ["sst", "sts"], "encoder_dtype": "fp32"}
    (first,) = run(tmp_path, data, **options, keep_encoder="none").cells
    store = open_run(tmp_path, pytest.fail)
    with pytest.raises(UserError, match="again with --keep-encoder all"):
        loader(store).load(first)
    (second,) = run(tmp_path, data, **options, keep_encoder="all").cells  # trained again, to the same numbers
    assert [phase.scores for phase in second.phases] == [phase.scores for phase in first.phases]
    assert store.has_encoder(second.key)
    written = (tmp_path / "cells" / second.key / "record.json").stat().st_mtime_ns
    for keep in ("none", "best", "all"):
        assert run(tmp_path, data, **options, keep_encoder=keep).cells == (second,)
    assert (tmp_path / "cells" / second.key / "record.json").stat().st_mtime_ns == written
    model = loader(store).load(second)
    assert model.encoder.fingerprint != second.identity["encoder"]
    for task in ("sst", "sts"):
        stored = rows(store, second, task)["score"]
        np.testing.assert_allclose(values(model, task, examples(data, task)), stored, atol=1e-6)


def test_the_best_seeds_encoder_is_kept_by_default(tmp_path: Path, data: Path) -> None:
    lines: list[str] = []

    def watch(event: dict[str, Any]) -> None:
        lines.append(str(event.get("line", "")))

    cells = run(tmp_path, data, heads=["baseline"], seeds=3, tasks=["sst", "sts"], on_event=watch).cells
    store = open_run(tmp_path, pytest.fail)
    best = one(store, "baseline", None, "")
    assert best.dev_mean == max(each.dev_mean for each in cells)
    assert [each.key for each in cells if store.has_encoder(each.key)] == [best.key]
    # A command that was killed may have left one more; the next one removes it.
    other = next(each for each in cells if each.key != best.key)
    kept = (store.root / best.key / "encoder.safetensors").read_bytes()
    (store.root / other.key / "encoder.safetensors").write_bytes(kept)
    assert run(tmp_path, data, heads=["baseline"], seeds=3, tasks=["sst", "sts"]).cells == cells
    assert [each.key for each in cells if store.has_encoder(each.key)] == [best.key]
    assert any("encoder of each head's best seed is kept, in bf16: 1 × " in line for line in lines)
    model = loader(store).load(best)
    for task in ("sst", "sts"):  # bf16 has eight bits
        stored = rows(store, best, task)["score"]
        np.testing.assert_allclose(values(model, task, examples(data, task)), stored, atol=0.1)
    with pytest.raises(UserError, match="leave out --seed for the seed that is best on dev"):
        loader(store).load(next(each for each in cells if each.key != best.key))


def test_an_answer_as_json(store: CellStore) -> None:
    model = loader(store).load(one(store, "cnn", 0, ""))
    (answer,) = model.predict("sst", ["This is a good movie."])
    found = json.loads(json.dumps(answer.to_dict(["sentence"])))
    assert found["prediction"] == answer.label
    assert np.float32(max(found["probabilities"].values())) == np.float32(max((answer.probabilities or {}).values()))
    (answer,) = model.predict("sts", [PAIR])
    assert answer.probabilities is None
    assert 0 <= answer.to_dict(["a", "b"])["score"] <= 5
    with pytest.raises(UserError, match=r"example 2 of task 'sts' must be a tuple of 2 texts \(sentence1, sentence2\)"):
        model.predict("sts", [PAIR, "one"])
