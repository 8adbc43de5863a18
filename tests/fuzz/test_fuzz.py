"""Damaged input of every kind ends in an answer or in one line: never a traceback, a hang or gigabytes.

A few inputs here, the same each time. By hand `BENCHKIT_FUZZ=10000 pytest tests/fuzz` tries 10,000, other ones with
another `BENCHKIT_FUZZ_SEED`, and writes what came of them to results/faults.md.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import click
import pytest
import torch
from benchkit_cs224n import benchkit_tasks
from helpers.damage import VALUES, damaged, harm
from helpers.made_run import write_run
from helpers.tuning import FLAGS, request, search
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import benchkit
from benchkit.cli import cli, main
from benchkit.core.protocol import load_file, load_preset, override, parse_settings
from benchkit.data import load_data
from benchkit.encoder import BertConfig, load_encoder, random_encoder, save_encoder
from benchkit.experiment.environment import PeakMemory
from benchkit.store.cells import CellStore
from benchkit.tuning.storage import open_storage
from benchkit.tuning.study import Study, best, read_config

BY_HAND = "BENCHKIT_FUZZ" in os.environ
INPUTS = int(os.environ.get("BENCHKIT_FUZZ", "200"))
BUDGET = float("inf") if BY_HAND else 6  # seconds for each kind
SEED = int(os.environ.get("BENCHKIT_FUZZ_SEED", "0"))
SECONDS, GIGABYTES = 20, 2
PATIENCE = 120  # seconds by the clock, on a machine that has other work
ROOT = Path(__file__).parents[2]
TASKS = benchkit_tasks()
NAMES = [task.name for task in TASKS]
HEADS = ["baseline", "cnn", "siamese"]


@dataclass(frozen=True)
class Input:
    """Something to read: by a function of benchkit's, and by a command line."""

    read: Callable[[], object] | None
    words: list[str]


@dataclass
class Tally:
    """What came of the inputs of one kind."""

    answers: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0  # by the processor's time
    longest: float = 0.0  # by the clock
    memory: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sound:
    """Sound files, which are copied and damaged."""

    folder: Path

    def copy(self, name: str, to: Path) -> Path:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.folder / name, to)
        return to


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sound]:
    """Data, an encoder, a made run of many cells, a real one of two, an export and a study."""
    folder = tmp_path_factory.mktemp("sound")
    patch = pytest.MonkeyPatch()
    patch.setenv("BENCHKIT_WEIGHTS", str(folder))  # records name the encoder, not its folder
    shutil.move(write_run(folder), folder / "many")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a", "sentence"]
    save_encoder(random_encoder("tiny", vocab, BertConfig(len(vocab), 16, 2, 2, 32, 32), seed=0), folder / "encoder")
    benchkit.run("baseline", data=folder / "data", encoder=folder / "encoder", seeds=2, phases="pretrain",
                 settings={"pretrain.epochs": 1}, out=folder / "run", precision="fp32")  # fmt: skip
    code, said = call(["export", "--run", f"{folder / 'run'}", "--head", "baseline", "--out", f"{folder / 'export'}"])
    assert code == 0, said
    search(request(folder / "tune", trials=2, study="s"))
    yield Sound(folder)
    patch.undo()


# Inputs


def data(sound: Sound, folder: Path, random: Random) -> Input:
    folder = sound.copy("data", folder / "data")
    file = random.choice(sorted(folder.glob("*/*")))
    text = file.read_bytes()
    if random.random() < 0.5:
        file.unlink()
        suffix = random.choice((".tsv", ".csv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".json"))
        file = file.with_name(file.stem + suffix)
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)
    harm(file, random)
    return Input(lambda: load_data(folder, TASKS), ["data", "check", str(folder)])


def encoders(sound: Sound, folder: Path, random: Random) -> Input:
    folder = sound.copy("encoder", folder / "encoder")
    harm(random.choice(sorted(folder.iterdir())), random)
    return Input(lambda: load_encoder(folder), ["encoders", "show", str(folder)])


def exports(sound: Sound, folder: Path, random: Random) -> Input:
    folder = sound.copy("export", folder / "export")
    weights = [folder / "benchkit.json"] * 3
    harm(random.choice([*weights, *sorted(path for path in folder.rglob("*.*") if path.suffix != ".md")]), random)
    words = ["predict", "--model", str(folder), "--task", "sst", "a sentence"]
    return Input(lambda: benchkit.load_exported(folder).predict("sst", ["a sentence"]), words)


def studies(sound: Sound, folder: Path, random: Random) -> Input:
    folder = sound.copy("tune", folder / "tune")
    harm(folder / "studies.journal", random)
    url = f"journal:{folder / 'studies.journal'}"

    def read() -> None:
        with contextlib.closing(open_storage(url, create=False)) as storage:
            best(Study(read_config(storage, "s"), storage).trials())

    again = ["tune", "--head", "baseline", "--trials", "2", "--final-seeds", "0", "--study", "s", "--device", "cpu"]
    again += ["--pruner", "none", "--executor", "local", "--out", str(folder), *FLAGS]
    return Input(read, again)


def records(sound: Sound, folder: Path, random: Random) -> Input:
    folder = sound.copy(random.choice(("many", "run")), folder / "run")
    files = sorted(path for path in (folder / "cells").rglob("*") if path.is_file() and "lock" not in path.name)
    for _ in range(random.choice((1, 3))):
        harm(random.choice(files), random)

    def read() -> None:
        store = CellStore(folder / "cells", lambda line: one_line(line))
        for key in store.keys():  # noqa: SIM118
            store.load(key)

    name = str(folder)
    cell = str(random.choice(sorted((folder / "cells").iterdir())))
    commands = [["report", name], ["plan", name], ["compare", name, str(sound.folder / "run")], ["explain", cell]]
    commands += [["predict", "--run", name, "--head", "baseline", "--task", "sst", "a"], ["repro", name]]
    return Input(read, random.choice(commands))


PROTOCOL = """base = "paper"
pooling = "mean"
layers = [0, -1]
phases = ["pretrain", "top"]
seeds = 2
[pretrain]
epochs = 3
learning_rate = 1e-3
[top]
trains = "top:2"
average = 0.99
[sst]
train_size = 100
[cnn]
kernel_size = 5
"""
FIELDS = ["pooling", "layers", "phases", "seeds", "tasks", "max_length", "precision", "sampling", "pretrain.epochs",
          "pretrain.batch_size", "pretrain.learning_rate", "pretrain.trains", "pretrain.warmup", "finetune.trains",
          "sst.train_size", "quora.pair_input", "sts.loss", "cnn.channels", "baseline.width", "siamese.dropout", "x",
          "cnn.", ".", "pretrain", "cnn.kernel_size"]  # fmt: skip


def word(random: Random) -> str:
    """A value as somebody types it."""
    value = random.choice(VALUES)
    return "[" * 5000 if value == "<nested>" else str(value)


def protocols(sound: Sound, folder: Path, random: Random) -> Input:
    run = ["run", "--dry-run", "--data", str(sound.folder / "data"), "--encoder", str(sound.folder / "encoder")]
    run += ["--heads", random.choice(HEADS), "--out", str(folder / "out")]
    if random.random() < 0.4:
        pairs = [f"{random.choice(FIELDS)}={word(random)}" for _ in range(random.choice((1, 1, 2)))]

        def change() -> object:
            return override(load_preset("paper", NAMES, HEADS), parse_settings(pairs), NAMES, HEADS)

        return Input(change, [*run, *(part for pair in pairs for part in ("--set", pair))])
    file = folder / "own.toml"
    if random.random() < 0.5:
        file.write_bytes(damaged(PROTOCOL.encode(), random))
    else:
        lines = PROTOCOL.splitlines()
        place = random.choice([place for place, line in enumerate(lines) if "=" in line])
        value = random.choice((word(random), json.dumps(word(random)), "[" * 5000 + "]" * 5000, "1979-05-27", "nan"))
        lines[place] = f"{lines[place].partition('=')[0]}= {value}"
        file.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return Input(lambda: load_file(file, NAMES, HEADS), [*run, "--protocol", str(file)])


NUMBERS = ["-1", "0", "1", "2", "3", "100000000", str(10**9), str(10**30), "1e400", "nan", "0.5", "2**31", ""]
# What would train, time, fetch or check for minutes is only looked at.
BOUNDED = {"run": ["--dry-run"], "tune": ["--show-space"], "repro": ["--dry-run"]}
SKIPPED = ("speed", "pretrain", "check", "fetch", "doctor")


def commands(group: click.Group = cli, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        if name not in SKIPPED or (before == ("data",) and name == "check"):
            yield (*before, name), command


def command_lines(sound: Sound, folder: Path, random: Random) -> Input:
    """A command with some of its options, and values that fit them or do not."""
    names = [*HEADS, *NAMES, "pretrain", "demo", "paper", "frozen", "mean", "test", "json", "hub", "embedded", "s"]
    paths = [str(sound.folder / each) for each in ("run", "many", "data", "encoder", "export", "run/cells", "nope")]
    paths += ["/dev/null", "/proc/nope", "/dev/full", ".", "../x", "x" * 300, "é\n", f"journal:{folder}/x"]
    settings = [f"{name}={random.choice(NUMBERS)}" for name in FIELDS]
    path, command = random.choice(list(commands()))
    words = list(path)
    for each in command.params:
        if isinstance(each, click.Argument):
            words += [random.choice([*paths, *paths, *names]) for _ in range(random.choice((0, 1, 1, 1, 2)))]
        elif isinstance(each, click.Option) and random.random() < 0.25:
            values = random.choice((NUMBERS, names, paths, settings))
            choices = each.type.choices if isinstance(each.type, click.Choice) else values
            words += [random.choice(each.opts), *([] if each.is_flag else [random.choice(choices)])]
    for name in ("--out", "--dir", "--html", "--figures", "--svg"):
        if name in words and words[words.index(name) + 1].startswith(str(sound.folder)):
            words[words.index(name) + 1] = str(folder / "out")
    return Input(None, [each.replace("\0", "") for each in (*words, *BOUNDED.get(path[0], []))])


KINDS = {each.__name__: each for each in (data, encoders, exports, studies, records, protocols, command_lines)}
# Of a hundred inputs; `processes` takes any kind, by a command in a process of its own.
SHARES = {"data": 22, "encoders": 16, "exports": 16, "studies": 14, "records": 13, "protocols": 13,
          "command_lines": 5.5, "processes": 0.5}  # fmt: skip


# What comes of them


def one_line(text: str) -> None:
    assert text.strip(), "an empty message"
    assert "\n" not in text.strip(), f"several lines: {text[:300]!r}"
    assert len(text) < 2000, f"{len(text)} characters: {text[:300]!r}"


def call(words: list[str]) -> tuple[int, str]:
    """A command's exit code and what it said on stderr, in this process."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    argv = mock.patch.object(sys, "argv", ["benchkit", *words])
    with argv, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
    return code, err.getvalue()


def call_process(words: list[str]) -> tuple[int, str]:
    # What no system can hand to a process.
    words = [word.replace("\0", "").encode("utf-8", "replace").decode() for word in words]
    done = subprocess.run([sys.executable, "-m", "benchkit", *words], capture_output=True, text=True,
                          timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False)  # fmt: skip
    return done.returncode, done.stderr


def judged(done: tuple[int, str]) -> str:
    """Success, or a refusal that ends in one line. Exit code 1 is an answer too: a regression, data with problems."""
    code, said = done
    assert "Traceback" not in said, said[-2000:]
    if code in (0, 1) or said.startswith("Usage: "):  # a group of commands without one is asked for its help
        return "success"
    assert code == 2, f"exit code {code}: {said[-1000:]}"
    errors = [line for line in said.splitlines() if line.startswith("benchkit: error: ")]
    assert len(errors) == 1, f"not one line: {said[-2000:]!r}"
    assert said.rstrip("\n").endswith(errors[0]), f"something after the message: {said[-2000:]!r}"
    one_line(errors[0])
    return "refusal"


def outcome(made: Input, by_command: Callable[[list[str]], tuple[int, str]] | None) -> str:
    if by_command:
        return judged(by_command(made.words))
    assert made.read is not None
    try:
        made.read()
    except benchkit.UserError as error:
        one_line(str(error))
        return "refusal"
    return "success"


def stop(signal: int, frame: object) -> None:
    raise TimeoutError("no answer in time")


def processor_seconds() -> float:
    """Of this process, and of those that it has started."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def attempt(tally: Tally, made: Input, by_command: Callable[[list[str]], tuple[int, str]] | None, what: str) -> None:
    """Read one input, and note what came of it."""
    memory, started, spent = PeakMemory(torch.device("cpu")), time.monotonic(), processor_seconds()
    before = memory.read()
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tally.answers[outcome(made, by_command)] += 1
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        words = " ".join(made.words) if by_command else ""
        frames = [each for each in traceback.extract_tb(error.__traceback__) if "/benchkit/" in each.filename]
        places = ", ".join(f"{Path(each.filename).name}:{each.lineno}" for each in frames[-3:])
        tally.faults.append(f"{what} {words[:600]}: {type(error).__name__}: {error!s:.1500} ({places})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds, grown = processor_seconds() - spent, memory.read() - before
    if by_command is call_process:
        grown = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    tally.slowest, tally.memory = max(tally.slowest, seconds), max(tally.memory, grown)
    tally.longest = max(tally.longest, time.monotonic() - started)
    if seconds > SECONDS or grown > GIGABYTES * 2**30:
        tally.faults.append(f"{what} {' '.join(made.words)[:600]}: {seconds:.1f} s, {grown / 2**30:.2f} GiB")


tallies: dict[str, Tally] = {}


@pytest.mark.parametrize("kind", SHARES)
def test_inputs(kind: str, sound: Sound, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGPROF, stop)
    tally = tallies[kind] = Tally()
    end = time.monotonic() + BUDGET

    @seed(SEED)
    @settings(max_examples=round(INPUTS * SHARES[kind] / 100), deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.integers(0, 2**63))
    def inputs(number: int) -> None:
        if time.monotonic() > end:
            return
        random = Random(number)
        name = kind if kind in KINDS else random.choice(list(KINDS))
        made = KINDS[name](sound, tmp_path, random)
        by_command = call_process if kind == "processes" else call if not made.read or random.random() < 0.02 else None
        attempt(tally, made, by_command, f"{name} {number}")

    inputs()
    assert not tally.faults, "\n".join(tally.faults)


REPORT = """# Faults

{total:,} damaged inputs, by Hypothesis: bits flipped, parts cut out, doubled, cut off or put in, keys missing, values
of another type or size, 5,000 levels of nesting, lone surrogates, numbers of 10^30 and 10^400. Each is to end in an
answer, or in one line with exit code 2, within {seconds} s and {gigabytes} GB.

```console
BENCHKIT_FUZZ={inputs} BENCHKIT_FUZZ_SEED={seed} pytest tests/fuzz
```

| kind | inputs | answers | refusals | faults | slowest, of the processor | slowest, by the clock | memory |
|:--|--:|--:|--:|--:|--:|--:|--:|
{rows}

`processes` are commands in processes of their own, which read an input of any of the kinds; of the other kinds one
input in fifty is read by the whole command, the others by the function that reads it. What is limited to {seconds} s
is the processor's time, since the machine had other work. Memory is what the process grew by for one input; of
`processes`, all that one took.
"""


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    """By hand, what came of them is written down."""
    yield
    if not BY_HAND:
        return
    rows, total = [], 0
    for kind, tally in tallies.items():
        count = sum(tally.answers.values()) + len(tally.faults)
        total += count
        rows.append(
            f"| {kind.replace('_', ' ')} | {count:,} | {tally.answers['success']:,} | {tally.answers['refusal']:,} | "
            f"{len(tally.faults):,} | {tally.slowest:.1f} s | {tally.longest:.1f} s | "
            f"{tally.memory / 2**20:,.0f} MiB |"
        )
    text = REPORT.format(
        total=total, seconds=SECONDS, gigabytes=GIGABYTES, inputs=INPUTS, seed=SEED, rows="\n".join(rows)
    )
    (ROOT / "results" / "faults.md").write_text(text, "utf-8")
