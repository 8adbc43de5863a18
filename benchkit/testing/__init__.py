"""The contract that every head keeps, as checks that anyone can run.

`HeadContract` gives all checks to pytest; `check_head(spec)`, and `benchkit heads check` on the command line, run them
without it. Each check is also here under its own name, `shapes` and so on: `shapes(spec)` is a `Verdict`, and
`shapes.function.__doc__` says in full what is asked.
"""

from benchkit.testing.configs import config, described, search
from benchkit.testing.contract import CHECKS, HeadContract, check_head
from benchkit.testing.importing import imports
from benchkit.testing.inputs import company, padding, reaches, reads, segments, symmetric, untouched
from benchkit.testing.outputs import alone, scores, shapes
from benchkit.testing.precision import bf16, compiles
from benchkit.testing.samples import TASKS, build, features
from benchkit.testing.training import gradients, seed, state, trunk
from benchkit.testing.verdict import Check, Failed, Skipped, Verdict, check

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
