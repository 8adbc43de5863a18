"""Signals at random moments: `python tests/by_hand/kill.py`, 300 of them; `--signals 20` for a quick look.

A sequence starts a command on small synthetic data, interrupts it a few times (SIGKILL, SIGTERM, SIGINT as Ctrl-C,
SIGSTOP and SIGCONT, SIGSTOP and SIGKILL; at any moment of the time that it takes undisturbed), starts it again until it
finishes, and compares its numbers, to the last bit, and the names of its files with those of an undisturbed reference.
A sequence whose command finished before its first signal counts too.
After every signal: the exit code is the one for it, no worker is alive after 2 s, nothing printed is a traceback.

SIGINT goes to the whole process group, as from a terminal; the others to the main process. Commands are forked from a
process that has imported torch (see `commands.py`), but for every tenth, which is a real one; the moments of these
begin when Python has started, since before there is nobody but Python to answer. Workers are always real processes.

The table goes to `results/faults-signals.md`, under "Signals". Exit code 1: something was wrong; it is listed there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from random import Random

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch
sys.path[:0] = [str(path) for path in Path(__file__).parents[1:3]]

from by_hand.commands import ROOT, Numbers, Process, files, markdown, preload, start, write_data, write_section  # noqa: E402

REAL = 10  # every so many commands is started as a process of its own
PYTHON_STARTS = 0.3  # seconds of a real process
WORKER_SECONDS, EXIT_SECONDS, END_SECONDS = 2.0, 30.0, 300.0
MOST = 6  # signals of a sequence
DATA = Path(tempfile.gettempdir()) / f"benchkit-kill-{os.getpid()}" / "data"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(path: Path, without: Sequence[str]) -> list[dict[str, str]]:
    import pandas as pd

    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    found: list[dict[str, str]] = frame.drop(columns=list(without)).to_dict("records")  # type: ignore[assignment]
    return found


def tensors(path: Path) -> str:
    """Digest of a file's tensors; the order of its metadata is safetensors' own."""
    from safetensors.numpy import load

    content = {name: (value.shape, value.tobytes()) for name, value in sorted(load(path.read_bytes()).items())}
    return hashlib.sha256(repr(content).encode()).hexdigest()


def run_numbers(out: Path) -> Mapping[str, object]:
    cells: dict[str, object] = {path.parent.name: sha(path) for path in out.glob("cells/*/predictions.parquet")}
    cells |= {f"{path.parent.name} weights": tensors(path) for path in out.glob("cells/*/weights.safetensors")}
    return {**cells, "summary": rows(out / "summary.csv", ["train_seconds"]), "curves": sha(out / "curves.csv")}


def tune_numbers(out: Path) -> Mapping[str, object]:
    """Trials that a signal ended are failed ones, and tried again under another number."""
    trials = [row for row in rows(out / "baseline/trials.csv", ["trial", "seconds"]) if row["state"] != "fail"]
    best = tomllib.loads((out / "baseline/best.toml").read_text())
    return {"trials": trials, "best": best, "best of k": sha(out / "best-of-k.csv")}


def pretrain_numbers(out: Path) -> Mapping[str, object]:
    names = ("model.safetensors", "tokenizer.json", "vocab.txt", "config.json")
    return {**{name: sha(out / name) for name in names}, "curve": rows(out / "curve.csv", ["seconds"])}


def report_numbers(out: Path) -> Mapping[str, object]:
    return {name: sha(out / name) for name in sorted(files(out))}


TRAIN = ["run", "--heads", "baseline", "--seeds", "2", "--set", "pretrain.epochs=3", "--set",
         "finetune.epochs=1", "--data", "data", "--device", "cpu", "--out", "out"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    name: str
    arguments: Sequence[str]
    numbers: Numbers
    share: int  # of 300 signals


CASES = (
    Case("run", [*TRAIN, "--jobs", "1"], run_numbers, 55),
    Case("run --jobs 2", [*TRAIN, "--jobs", "2"], run_numbers, 40),
    Case("tune", ["tune", "--head", "baseline", "--search", "head", "--trials", "6", "--set",
                  "pretrain.epochs=8", "--final-seeds", "0", "--jobs", "1", "--data", "data", "--device", "cpu",
                  "--out", "out"], tune_numbers, 55),
    Case("pretrain", ["pretrain", "data/texts.txt", "--layers", "1", "--hidden", "32", "--heads",
                      "2", "--vocab-size", "300", "--steps", "24", "--every", "3", "--device", "cpu", "--out", "out"],
         pretrain_numbers, 65),
    Case("report", ["report", "run", "--format", "markdown", "--out", "out/table.md", "--html", "out/page.html"],
         report_numbers, 85),
)  # fmt: skip


@dataclass
class Tally:
    """What was seen of one command."""

    signals: Counter[str] = field(default_factory=Counter)
    real: int = 0
    sequences: int = 0
    equal: int = 0
    with_workers: int = 0
    slowest: float = 0.0
    tracebacks: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass
class Reference:
    seconds: float
    numbers: Mapping[str, object]
    files: set[str]


@dataclass
class Trial:
    """The sequences of one case, in folders under `base`."""

    case: Case
    base: Path
    draw: Random
    tally: Tally = field(default_factory=Tally)
    started: int = 0

    def folder(self, name: str) -> Path:
        folder = self.base / name
        folder.mkdir(parents=True)
        (folder / "data").symlink_to(DATA)
        if self.case.name == "report":
            shutil.copytree(self.base / "run", folder / "run")
        return folder

    def start(self, folder: Path) -> Process:
        self.started += 1
        real = self.started % REAL == 0
        self.tally.real += real
        output = folder.with_name(f"{folder.name}-{self.started}.txt")
        return start(self.case.arguments, folder, output, {"BENCHKIT_CACHE": str(folder / "cache")}, real=real)

    def reference(self) -> Reference:
        if self.case.name == "report":
            whole = Trial(CASES[0], self.base / "trained", self.draw)
            whole.reference()
            shutil.copytree(whole.base / "reference" / "out", self.base / "run")
        folder, began = self.folder("reference"), time.monotonic()
        process = self.start(folder)
        if process.wait(END_SECONDS) != 0:
            raise SystemExit(f"{self.case.name}: the undisturbed command failed:\n{process.text()}")
        seconds = time.monotonic() - began
        return Reference(seconds, self.case.numbers(folder / "out"), files(folder))

    def sequence(self, expected: Reference, left: int) -> None:
        """Interrupt, start again, finish, compare; at most `left` signals."""
        tally, folder = self.tally, self.folder(str(self.tally.sequences))
        history: list[str] = []
        tally.sequences += 1
        process = self.start(folder)
        for _ in range(min(left, self.draw.randint(2, MOST))):
            moment = self.draw.uniform(0, expected.seconds) + PYTHON_STARTS * (process.child is not None)
            if process.wait(moment) is not None:
                break
            how = self.draw.choice(("KILL", "TERM", "INT", "STOP CONT", "STOP KILL"))
            history.append(f"{how} after {moment:.2f} s{' (real)' * (process.child is not None)}")
            tally.signals[how] += 1
            before = len(tally.faults)
            alive = self.strike(process, how)
            tally.faults[before:] = [f"{self.case.name} {folder.name}: {history[-1]}: {each}"
                                     for each in tally.faults[before:]]  # fmt: skip
            if not alive and process.code != 0:
                process = self.start(folder)
        code = process.wait(END_SECONDS)
        self.look(process, code, 0, "the last start")
        if code is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(EXIT_SECONDS)
        problems = [] if code == 0 else [f"exit code {code}: {process.text()[-300:]}"]
        if code == 0:
            found = self.case.numbers(folder / "out")
            names = expected.numbers.keys() | found.keys()
            problems = [f"differs: {name}" for name in sorted(names) if found.get(name) != expected.numbers.get(name)]
        tally.equal += not problems
        if code == 0:
            problems += [f"left over: {name}" for name in sorted(files(folder) - expected.files)]
        tally.faults += [f"{self.case.name} {folder.name}: {'; '.join(history)}: {each}" for each in problems]
        if not problems:
            shutil.rmtree(folder)

    def strike(self, process: Process, how: str) -> bool:
        """Send a signal and look at what it does; whether the process still runs."""
        workers = process.workers()
        self.tally.with_workers += bool(workers)
        pid, sent = process.pid, time.monotonic()
        if how == "INT":
            os.killpg(pid, signal.SIGINT)
            code, wanted = process.wait(EXIT_SECONDS), 130
        elif how == "STOP CONT":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.draw.uniform(0.05, 0.5))
            os.kill(pid, signal.SIGCONT)
            return True
        else:
            for name in how.split():
                os.kill(pid, signal.Signals[f"SIG{name}"])
            code, wanted = process.wait(EXIT_SECONDS), -signal.Signals[f"SIG{how.split()[-1]}"].value
        ended = time.monotonic() if how == "INT" else sent
        self.look(process, code, wanted, f"{code} within {time.monotonic() - sent:.1f} s")
        while process.workers() and time.monotonic() < ended + 10:
            time.sleep(0.01)
        took = time.monotonic() - ended
        if workers:
            self.tally.slowest = max(self.tally.slowest, took)
        if took > WORKER_SECONDS and workers:
            self.tally.faults.append(f"workers lived for {took:.1f} s")
            for each in process.workers():
                os.kill(each, signal.SIGKILL)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            process.wait(EXIT_SECONDS)
        return False

    def look(self, process: Process, code: int | None, wanted: int, when: str) -> None:
        if code not in (wanted, 0):  # 0: it had finished already
            self.tally.faults.append(f"exit code {code}, not {wanted} ({when}): {process.text()[-300:]!r}")
        if process.tracebacks():
            self.tally.tracebacks += 1
            self.tally.faults.append(f"a traceback ({when}): {process.text()[-1500:]}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--signals", type=int, default=300)
    options.add_argument("--jobs", type=int, default=1, help="commands that are tried at once")
    options.add_argument("--minutes", type=float, default=60, help="no command's sequences begin later")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("commands", nargs="*", help=f"of: {', '.join(case.name for case in CASES)}; default: all")
    options.add_argument("--page", type=Path, default=ROOT / "results" / "faults-signals.md", help="`-` prints only")
    asked = options.parse_args()
    wanted = [case for case in CASES if not asked.commands or case.name in asked.commands]
    counts = [asked.signals * case.share // sum(each.share for each in wanted) for case in wanted]
    counts[0] += asked.signals - sum(counts)
    began = time.monotonic()
    preload()
    write_data(DATA)
    tallies: dict[str, Tally] = {}
    with ProcessPoolExecutor(asked.jobs, get_context("fork")) as pool:
        last = began + 60 * asked.minutes
        found = pool.map(sequences, wanted, counts, repeat(asked.seed), repeat(last))
        for case, tally in zip(wanted, found, strict=True):
            tallies[case.name] = tally
    text = page(tallies, asked.seed, time.monotonic() - began)
    print(text)
    if str(asked.page) != "-":
        write_section(asked.page, "Signals", text)
    faulty = any(tally.faults for tally in tallies.values())
    print(f"kept in {DATA.parent}" if faulty else "no faults")
    if not faulty:
        shutil.rmtree(DATA.parent)
    sys.exit(faulty)


def sequences(case: Case, signals: int, seed: int, last: float) -> Tally:
    """Sequences until so many signals were sent, none begun after `last`."""
    began = time.monotonic()
    trial = Trial(case, DATA.parent / case.name.replace(" ", ""), Random(f"{seed} {case.name}"))
    expected, tally = trial.reference(), trial.tally
    while tally.signals.total() < signals and time.monotonic() < last:
        trial.sequence(expected, signals - tally.signals.total())
        print(f"{case.name}: {tally.signals.total()} signals, {tally.equal} of {tally.sequences} sequences equal, "
              f"{len(tally.faults)} faults, {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip
    return tally


def page(tallies: Mapping[str, Tally], seed: int, seconds: float) -> str:
    kinds = ("KILL", "TERM", "INT", "STOP CONT", "STOP KILL")

    def numbers(each: Tally) -> list[int]:
        counts = [each.signals[kind] for kind in kinds]
        return [each.signals.total(), *counts, each.real, each.sequences, each.equal]

    lines = []
    for name, each in tallies.items():
        slowest = f"{each.slowest:.2f} s" if each.with_workers else "–"
        lines.append((f"`{name}`", numbers(each), each.with_workers, slowest, each.tracebacks, len(each.faults)))
    sums = [sum(column) for column in zip(*(line[1] for line in lines), strict=True)]
    table = [[name, *counts, *rest] for name, counts, *rest in lines]
    whole = [sum(each.with_workers for each in tallies.values()), "", sum(each.tracebacks for each in tallies.values())]
    total = ["all", *sums, *whole, sum(len(each.faults) for each in tallies.values())]
    columns = ["command", "signals", *kinds, "real processes", "sequences", "equal", "with workers",
               "slowest worker's end", "tracebacks", "faults"]  # fmt: skip
    found = [" ".join(fault.split()) for each in tallies.values() for fault in each.faults]
    return (
        f"`python tests/by_hand/kill.py --signals {sums[0]} --seed {seed}`: {seconds / 60:.0f} minutes on "
        f"{os.cpu_count()} cores that had other work too.\n\n{markdown(columns, [*table, total])}\n\n"
        + "\n".join(f"* {fault}" for fault in found)
    )


if __name__ == "__main__":
    main()
