"""The contract that every head keeps, as checks that anyone can run.

`HeadContract` gives all checks to pytest; `check_head(spec)`, and `benchkit heads check` on the command line, run them
without it. Each check is also here under its own name, `shapes` and so on: `shapes(spec)` is a `Verdict`, and
`shapes.function.__doc__` says in full what is asked.
"""

from benchkit.testing.behaviour import (
    company,
    gradients,
    padding,
    reaches,
    reads,
    seed,
    segments,
    state,
    symmetric,
    trunk,
    untouched,
)
from benchkit.testing.checks import alone, bf16, compiles, config, described, imports, scores, search, shapes
from benchkit.testing.contract import CHECKS, HeadContract, check_head
from benchkit.testing.verdict import TASKS, Check, Failed, Skipped, Verdict, build, check, features

__all__ = [
    "CHECKS",
    "TASKS",
    "Check",
    "Failed",
    "HeadContract",
    "Skipped",
    "Verdict",
    "alone",
    "bf16",
    "build",
    "check",
    "check_head",
    "company",
    "compiles",
    "config",
    "described",
    "features",
    "gradients",
    "imports",
    "padding",
    "reaches",
    "reads",
    "scores",
    "search",
    "seed",
    "segments",
    "shapes",
    "state",
    "symmetric",
    "trunk",
    "untouched",
]
