"""Disks that run full: `python tests/by_hand/full_disk.py` (Linux, as root: it mounts a tmpfs).

Every command that writes does so on a small tmpfs of its own. Once with room enough, while the blocks in use are
watched: their levels are the files that it writes. Then at ten of these levels, from the first to the highest, with one
block less free than the level takes (a ballast file has the rest). Every second time the files of the first run are
there already, where the command replaces files, and up to four blocks are free: a file is one more while it is written.

Looked at each time: one line on stderr that says what and where, for the command or for each cell that failed; exit
code 2, or 1 where cells failed; no traceback; no temporary file; each file that is there can be read to its end, and
what was there before still is. Then the ballast goes; the same command has to end with the numbers of the first run.

Commands are forked from a process that has imported torch (see `commands.py`). The table goes to
`results/faults-signals.md`, under "Full disks". Exit code 1: something was wrong; it is listed there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch
sys.path[:0] = [str(path) for path in Path(__file__).parents[1:3]]

from by_hand.commands import ROOT, Numbers, files, markdown, preload, start, write_data, write_section  # noqa: E402
from by_hand.kill import pretrain_numbers, rows, run_numbers, sha, tensors, tune_numbers  # noqa: E402

SIZE = 96 << 20  # bytes of the tmpfs
SECONDS = 300.0
TRAIN = ["run", "--heads", "baseline", "--seeds", "2", "--set", "pretrain.epochs=6", "--phases", "pretrain",
         "--data", "DATA", "--device", "cpu"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command; its arguments' DATA, RUN and OUT are folders: OUT is on the small disk.

    Attributes:
        cache: where BENCHKIT_CACHE and HF_HOME are: "disk", or "" for elsewhere, filled.
        replaces: it writes over files that are there.
    """

    name: str
    arguments: Sequence[str]
    numbers: Numbers
    cache: str = ""
    replaces: bool = False


def all_files(out: Path) -> Mapping[str, object]:
    return {name: tensors(out / name) if name.endswith(".safetensors") else sha(out / name)
            for name in sorted(files(out)) if name != "out/benchkit.json"}  # fmt: skip


def fetched(out: Path) -> Mapping[str, object]:
    return {name: value for name, value in all_files(out).items() if "/data/" in name and name.endswith(".jsonl")}


def timed(out: Path) -> Mapping[str, object]:
    (table,) = out.glob("speed/*.csv")
    return {"rows": [(row["head"], row["error"]) for row in rows(table, [])]}


CASES = (
    Case("run", [*TRAIN, "--jobs", "1", "--out", "OUT/out"], lambda out: run_numbers(out / "out")),
    Case("run, its cache", [*TRAIN, "--jobs", "1", "--out", "ELSEWHERE/out"], lambda out: {}, cache="disk"),
    Case("run --jobs 2", [*TRAIN, "--jobs", "2", "--out", "OUT/out"], lambda out: run_numbers(out / "out")),
    Case("tune", ["tune", "--head", "baseline", "--search", "head", "--trials", "3", "--set", "pretrain.epochs=2",
                  "--final-seeds", "1", "--jobs", "1", "--data", "DATA", "--device", "cpu", "--out", "OUT/out"],
         lambda out: tune_numbers(out / "out")),
    Case("pretrain", ["pretrain", "DATA/texts.txt", "--layers", "1", "--hidden", "32", "--heads", "2", "--vocab-size",
                      "300", "--steps", "6", "--every", "3", "--device", "cpu", "--out", "OUT/out"],
         lambda out: pretrain_numbers(out / "out")),
    Case("predict", ["predict", "--run", "RUN", "--head", "baseline", "--task", "sst", "--input", "DATA/texts.txt",
                     "--out", "OUT/out.jsonl"], all_files, replaces=True),
    Case("predict --format cs224n", ["predict", "--run", "RUN", "--head", "baseline", "--format", "cs224n", "--out",
                                     "OUT/out"], all_files, replaces=True),
    Case("export", ["export", "--run", "RUN", "--head", "baseline", "--out", "OUT/out"], all_files),
    Case("encoders convert", ["encoders", "convert", "demo", "OUT/out"], all_files),
    Case("report", ["report", "RUN", "--format", "markdown", "--out", "OUT/table.md", "--html", "OUT/page.html",
                    "--figures", "OUT/figures"], all_files, replaces=True),
    Case("data fetch", ["data", "fetch", "sst", "--revision", "0123456789abcdef0123456789abcdef01234567"],
         fetched, cache="disk"),
    Case("heads new", ["heads", "new", "tiny", "--dir", "OUT"], all_files),
    Case("heads show --svg", ["heads", "show", "baseline", "--svg", "OUT/head.svg"], all_files, replaces=True),
    Case("speed", ["speed", "--heads", "baseline", "--mode", "infer", "--warmup", "1", "--min-iterations", "1",
                   "--min-time", "0.01", "--repeats", "2", "--batch-sizes", "2", "--device", "cpu", "--out",
                   "OUT/speed"], timed, replaces=True),
)  # fmt: skip


@dataclass
class Tally:
    points: int = 0
    failed: int = 0
    clean: int = 0
    again: int = 0
    line: str = ""
    faults: list[str] = field(default_factory=list)


@contextmanager
def small_disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="benchkit-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def used(disk: Path) -> int:
    """Blocks in use."""
    state = os.statvfs(disk)
    return state.f_blocks - state.f_bfree


def whole(path: Path) -> bool:
    """Whether a file can be read to its end as what its name says."""
    import pyarrow.parquet as pq
    from matplotlib.image import imread
    from safetensors.torch import load

    from benchkit.store.cells import load_checkpoint

    if path.stat().st_size == 0:
        return path.name in ("used", "py.typed") or "lock" in str(path)
    readers: Mapping[str, Callable[[Path], object]] = {
        ".json": lambda path: json.loads(path.read_bytes()),
        ".jsonl": lambda path: [json.loads(line) for line in path.read_text().split("\n")[:-1]],
        ".toml": lambda path: tomllib.loads(path.read_text()),
        ".safetensors": lambda path: load(path.read_bytes()),
        ".parquet": pq.read_table,
        ".png": lambda path: imread(path),
    }
    try:
        if path.name == "checkpoint.pt":
            return load_checkpoint(path, lambda line: None) is not None
        content = path.read_bytes()
        if path.suffix in readers:
            readers[path.suffix](path)
    except Exception:  # noqa: BLE001 - whatever it is
        return False
    return path.suffix in (".safetensors", ".parquet", ".png") or content.endswith((b"\n", b">", b"}"))


@dataclass
class Trial:
    """A case on its disk."""

    case: Case
    base: Path
    disk: Path
    hub: str
    tally: Tally = field(default_factory=Tally)
    starts: int = 0

    @property
    def out(self) -> Path:
        return self.disk / "work"

    def run(self, watch: Callable[[], None]) -> tuple[int | None, str]:
        """Run the command; its exit code and what it printed."""
        self.starts += 1
        cache = self.out / "cache" if self.case.cache else self.base / "cache"
        folders = {"DATA": self.base / "data", "RUN": self.base / "run" / "out", "OUT": self.out,
                   "ELSEWHERE": self.base / f"{self.case.name}-{self.starts}"}  # fmt: skip
        pattern = re.compile("|".join(folders))
        arguments = [pattern.sub(lambda match: str(folders[match[0]]), each) for each in self.case.arguments]
        env = {"BENCHKIT_CACHE": str(cache), "HF_HOME": str(cache / "hf"), "HF_ENDPOINT": self.hub}
        self.out.mkdir(exist_ok=True)
        process = start(arguments, self.base, self.base / f"{self.case.name}.txt", env, real=False)
        deadline = time.monotonic() + SECONDS
        while process.poll() is None:
            watch()
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
        return process.code, process.text()

    def reference(self) -> list[int]:
        """Levels of blocks in use, above those at the start; what is written is kept beside the disk."""
        levels: set[int] = set()
        self.out.mkdir()
        floor = used(self.disk)
        code, text = self.run(lambda: levels.add(used(self.disk) - floor))
        if code != 0:
            raise SystemExit(f"{self.case.name}: failed with room enough:\n{text}")
        shutil.copytree(self.out, self.kept)
        shutil.rmtree(self.out)
        return sorted(levels - {0})

    @property
    def kept(self) -> Path:
        return self.base / f"{self.case.name}-kept"

    def point(self, level: int, *, over: bool) -> None:
        """Run with one block less than a level takes, then with room enough."""
        tally, case = self.tally, self.case
        if over:
            shutil.copytree(self.kept, self.out)
        self.out.mkdir(exist_ok=True)
        ballast, state = self.disk / "ballast", os.statvfs(self.disk)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, (state.f_bfree - level + 1) * state.f_bsize)
        code, text = self.run(lambda: time.sleep(0.01))
        tally.points += 1
        tally.failed += code != 0
        problems = self.look(code, text, over=over)
        tally.clean += not problems
        ballast.unlink()
        code, again = self.run(lambda: time.sleep(0.01))
        if code != 0:
            problems.append(f"afterwards: exit code {code}: {again[-400:]}")
        else:
            expected, found = case.numbers(self.kept), case.numbers(self.out)
            differing = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
            problems += [f"afterwards differs: {name}" for name in differing]
            tally.again += not differing
            problems += [f"afterwards left over: {name}" for name in sorted(files(self.out) - files(self.kept))]
        blocks = f"{case.name}, {level - 1} blocks free{', over old files' * over}"
        tally.faults += [f"{blocks}: {each}" for each in problems]
        shutil.rmtree(self.out)

    def look(self, code: int | None, text: str, *, over: bool) -> list[str]:
        problems = []
        lines = [line for line in text.splitlines() if line.startswith("benchkit: error: ")]
        if code == 0 and not lines:
            return [] if over else ["it did not fail"]
        if "Traceback" in text or "Exception ignored" in text:
            problems.append(f"traceback: {text[-800:]}")
        elif len(lines) != 1 and not (code == 1 and len(lines) == 2):
            problems.append(f"{len(lines)} lines: {text[-800:]}")
        problems += [
            f"line: {line}" for line in lines if "No space left on device" not in line or str(self.disk) not in line
        ]
        if code not in (1, 2) or (code == 1 and self.case.arguments[0] not in ("run", "tune")):
            problems.append(f"exit code {code}: {lines}")
        self.tally.line = self.tally.line or next(iter(lines), "").replace(str(self.out), "…")
        places = [path for path in self.out.rglob("*") if "downloads" not in path.parts]
        problems += [f"left over: {path.relative_to(self.out)}" for path in places
                     if path.name.endswith((".tmp", ".part")) or path.name.startswith(".benchkit")]  # fmt: skip
        problems += [f"half-written: {path.relative_to(self.out)} of {path.stat().st_size} bytes"
                     for path in places if path.is_file() and not whole(path)]  # fmt: skip
        if over:
            problems += [f"gone: {name}" for name in sorted(files(self.kept) - files(self.out))]
        return problems


def serve() -> tuple[str, int]:
    """A hub of small data sets in a process of its own; its address and process id."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        from helpers.hub import serving
        from helpers.hub_sets import CONTENT

        with serving() as hub:
            for name, content in CONTENT.items():
                hub.add(f"datasets/{name}", content)
            os.write(theirs, hub.url.encode())
            while os.getppid() != 1:
                time.sleep(1)
        os._exit(0)
    return os.read(ours, 200).decode(), pid


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--points", type=int, default=10)
    options.add_argument("commands", nargs="*", help=f"of: {', '.join(case.name for case in CASES)}; default: all")
    options.add_argument("--page", type=Path, default=ROOT / "results" / "faults-signals.md", help="`-` prints only")
    asked = options.parse_args()
    base, began = Path(tempfile.mkdtemp(prefix="benchkit-full-")), time.monotonic()
    url, server = serve()
    try:
        os.environ["HF_ENDPOINT"] = url
        preload()
        write_data(base / "data")
        tallies = {}
        for case in CASES:
            if asked.commands and case.name not in asked.commands:
                continue
            tallies[case.name] = tally = try_case(case, base, url, asked.points)
            line = f"{case.name}: {tally.points} points, {tally.failed} failed, {tally.clean} clean, {tally.again} same"
            print(f"{line}, {time.monotonic() - began:.0f} s", *tally.faults, sep="\n  ", flush=True)
            if str(asked.page) != "-":
                write_section(asked.page, "Full disks", page({case.name: tally}, asked.page))
    finally:
        os.kill(server, signal.SIGKILL)
        shutil.rmtree(base)
    sys.exit(any(tally.faults for tally in tallies.values()))


def try_case(case: Case, base: Path, url: str, points: int) -> Tally:
    run = base / "run"
    if not run.exists():
        run.mkdir()
        arguments = [each.replace("DATA", str(base / "data")) for each in TRAIN]
        env = {"BENCHKIT_CACHE": str(base / "cache")}
        done = start([*arguments, "--jobs", "1", "--out", "out"], run, base / "run.txt", env, real=False)
        assert done.wait(SECONDS) == 0, done.text()
    with small_disk() as disk:
        trial = Trial(case, base, disk, url)
        levels = trial.reference()
        if len(levels) < points:  # too quick to be watched
            levels = [max(1, levels[-1] * (i + 1) // (points + 1)) for i in range(points)]
        chosen = [levels[round(i * (len(levels) - 1) / max(1, points - 1))] for i in range(points)]
        for number, level in enumerate(chosen):
            over = case.replaces and number % 2 == 1
            trial.point(1 + number // 2 if over else level, over=over)
    return trial.tally


def page(tallies: Mapping[str, Tally], old: Path) -> str:
    """The section; lines of commands that were not tried now are kept."""
    columns = ["command", "points", "failed", "one line, code, whole, clean", "equal afterwards", "faults", "its line"]
    lines = [[f"`{name}`", each.points, each.failed, each.clean, each.again, len(each.faults), each.line]
             for name, each in tallies.items()]  # fmt: skip
    found = [f"* `{name}`: {' '.join(fault.split())}" for name, each in tallies.items() for fault in each.faults]
    section = old.read_text("utf-8").partition("\n## Full disks\n")[2].partition("\n## ")[0] if old.exists() else ""
    kept = [line for line in section.splitlines() if "`" in line and line.split("`")[1] not in tallies]
    table = [*markdown(columns, lines).splitlines(), *(line for line in kept if line.startswith("| `"))]
    head = f"`python tests/by_hand/full_disk.py`: a tmpfs of {SIZE >> 20} MiB a command."
    return "\n".join([head, "", *table, "", *found, *(line for line in kept if line.startswith("* `"))])


if __name__ == "__main__":
    main()
