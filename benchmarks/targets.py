"""The CPU's targets, each a ratio in one run: `python benchmarks/targets.py [--only C3 C5] [--out FILE]`.

C1  encode with BERT-base (random weights), bf16, against transformers in fp32, random batches of 64
C2  encode from strings with FOLDER, against sentence-transformers in fp32 and in bf16
C3  as C1, in fp32, with the largest error
C5  the whole first phase (`benchkit run`) against a loop that encodes each batch anew
C6  a search of 50 trials (`benchkit tune`) against trials that encode each batch anew

What is compared takes turns; three repeats, medians. The loops of C5 and C6 are measured for a few batches and
multiplied by how many there would be: all of it would take hours. `--quick` shrinks everything, to see that it works.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peers import (
    Peer,
    Taken,
    has_bf16,
    machine,
    ours,
    plain_loop,
    ratio,
    read_texts,
    sentence_transformers,
    side_by_side,
)
from phases import Phase1, first_phase, loop_seconds, search

from benchkit.encoder import BertConfig, load_encoder, random_encoder, save_encoder

REACH = {"C1": "12 / 15", "C2": "3.5, 1.3 / 5, 1.8", "C3": "3 / 3.5", "C5": "100 / 130", "C6": "1,000 / 2,000"}


@dataclass(frozen=True)
class Setup:
    """Sizes of everything.

    Attributes:
        folder: a real encoder, small.
        base: BERT-base with random weights; with `--quick` the small one again.
        share: of the report's training data, 1 / share is used; ratios do not depend on it, but for start-up.
    """

    folder: Path
    base: Path
    work: Path
    repeats: int
    base_texts: int
    small_texts: int
    share: int
    steps: int
    trials: int
    loops: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    target: str
    what: str
    ours: str
    theirs: str
    ratio: str
    note: str = ""


def c1(setup: Setup) -> list[Line]:
    if not has_bf16():
        return [Line("C1", "encode, bf16", "–", "–", "–", "this processor has no bf16; in fp32 it is C3")]
    texts, _ = read_texts(setup.base_texts)
    taken = side_by_side([ours(setup.base, "bf16"), plain_loop(setup.base)], texts, setup.repeats)
    return [_encoded("C1", "encode, bf16, BERT-base", taken, 1)]


def c2(setup: Setup) -> list[Line]:
    texts, _ = read_texts(setup.small_texts)
    best: list[Peer] = [sentence_transformers(setup.folder, "bf16")] if has_bf16() else []
    taken = side_by_side([ours(setup.folder), sentence_transformers(setup.folder), *best], texts, setup.repeats)
    what = f"encode from strings, {setup.folder.name}, {taken[0].peer.precision}"
    lines = [_encoded("C2", f"{what}, against {each.peer.precision}", taken, i) for i, each in enumerate(taken) if i]
    if not best:
        lines.append(Line("C2", f"{what}, against bf16", "–", "–", "–", "this processor has no bf16"))
    return lines


def c3(setup: Setup) -> list[Line]:
    lines = []
    for name, folder, count in (
        ("BERT-base", setup.base, setup.base_texts),
        (setup.folder.name, setup.folder, setup.small_texts),
    ):
        texts, _ = read_texts(count)
        taken = side_by_side([ours(folder, "fp32"), plain_loop(folder)], texts, setup.repeats)
        error = float((taken[0].vectors - taken[1].vectors).abs().max() / taken[1].vectors.abs().max())
        lines.append(
            _encoded("C3", f"encode, fp32, {name}", taken, 1, f"largest error {error:.1e} of the largest value")
        )
    return lines


def _encoded(target: str, what: str, taken: list[Taken], other: int, note: str = "") -> Line:
    cpu = f"{ratio(taken[other].cpu, taken[0].cpu):.2f} by CPU time"
    mine, theirs = (statistics.median(taken[i].wall) for i in (0, other))
    speedup = f"{ratio(taken[other].wall, taken[0].wall):.2f}"
    return Line(target, what, f"{mine:.1f} s", f"{theirs:.1f} s", speedup, f"{cpu}; {note}" if note else cpu)


def c5(setup: Setup) -> list[Line]:
    phase = Phase1(setup.base, setup.share)
    fast = []
    for number in range(setup.repeats):
        fast.append(first_phase(phase, setup.work / f"c5-{number}"))
        setup.loops.append(loop_seconds(phase, setup.steps))
    return [_phases("C5", f"phase 1 with dev each epoch, 1/{setup.share} of the data", fast, setup.loops, setup)]


def c6(setup: Setup) -> list[Line]:
    """A search is long: it is measured once; a trial of the loop is what it was for C5, where that was measured."""
    phase = Phase1(setup.base, setup.share)
    loops = setup.loops or [loop_seconds(phase, setup.steps) for _ in range(setup.repeats)]
    slow = [setup.trials * seconds for seconds in loops]
    fast = [search(phase, setup.trials, setup.work / "c6")] * setup.repeats
    return [_phases("C6", f"{setup.trials} trials, 1/{setup.share} of the data", fast, slow, setup)]


def _phases(target: str, what: str, fast: list[float], slow: list[float], setup: Setup) -> Line:
    note = f"theirs from {setup.steps} batch{'es' * (setup.steps > 1)} of each task and split, extrapolated"
    mine, theirs = statistics.median(fast), statistics.median(slow)
    return Line(target, what, f"{mine:.1f} s", f"{theirs:,.0f} s", f"{ratio(slow, fast):,.0f}", note)


TARGETS: dict[str, Callable[[Setup], list[Line]]] = {"C1": c1, "C2": c2, "C3": c3, "C5": c5, "C6": c6}


def report(lines: list[Line], repeats: int) -> str:
    head = ["| # | what | benchkit | other | ratio | reach / stretch | |", "|---|---|---:|---:|---:|---:|---|"]
    cells = [(e.target, e.what, e.ours, e.theirs, e.ratio, REACH[e.target], e.note) for e in lines]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([f"{machine()}; {repeats} repeats in turns, medians\n", *head, *rows]) + "\n"


def random_base(folder: Path, target: Path) -> Path:
    """BERT-base with random weights and the folder's tokenizer; as fast as with real ones."""
    pieces = load_encoder(folder).tokenizer.get_vocab()
    vocab = sorted(pieces, key=lambda piece: pieces[piece])
    config = BertConfig(vocab_size=len(vocab), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    save_encoder(random_encoder("bert-base-random", vocab, config, seed=0), target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="C…")
    weights = Path(os.environ.get("BENCHKIT_WEIGHTS", "."))
    parser.add_argument("--folder", type=Path, default=weights / "all-MiniLM-L6-v2", help="a real encoder of 6×384")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, FOLDER instead of BERT-base")
    parser.add_argument("--out", type=Path, help="also write the table here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as name:
        work, base = Path(name), args.folder
        if not args.quick and set(args.only) != {"C2"}:
            base = random_base(args.folder, Path(name, "bert-base-random"))
        sizes = (64, 64, 400, 2, 2) if args.quick else (256, 1500, 24, 1, 50)
        setup = Setup(args.folder, base, work, args.repeats, *sizes)
        for target in args.only:
            begun = time.perf_counter()
            lines += TARGETS[target](setup)
            print(f"{target}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    text = report(lines, args.repeats)
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
