"""Samplers and pruners by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchkit.errors import UserError, unknown
from benchkit.rng import derive

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

_STARTUP = 5  # trials that are never pruned, so that there is a median to be below
SAMPLERS = ("tpe", "random", "cmaes", "qmc", "grid")
PRUNERS = ("none", "median", "hyperband")


def check_sampler(name: str, *, objectives: int) -> None:
    """Raise UserError if there is no such sampler, or it cannot do what is asked."""
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    if name == "cmaes":
        if objectives > 1:
            raise UserError("--sampler cmaes has one objective; for --objective pareto use tpe, random, qmc or grid")
        if find_spec("cmaes") is None:
            raise UserError("--sampler cmaes takes the package cmaes: pip install 'benchkit[tune]'")


def check_pruner(name: str, *, objectives: int) -> None:
    """Raise UserError if there is no such pruner, or it cannot do what is asked."""
    if name not in PRUNERS:
        raise unknown("pruner", name, PRUNERS)
    if name != "none" and objectives > 1:
        raise UserError(f"--pruner {name} has one objective; with --objective pareto use --pruner none")


def make_sampler(name: str, seed: int, trial: int) -> BaseSampler:
    """A sampler for one trial.

    What it draws depends on `seed`, on how many trials were begun before, and on what these found, not on which
    process asks: workers never draw the same, and a search that was resumed goes on as if it had not been stopped.
    A grid has no sampler of its own: its points are queued.
    """
    from optuna import samplers

    own = derive(seed, "sampler", trial) % 2**32
    makers: Mapping[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: samplers.TPESampler(seed=own, constant_liar=True),
        "random": lambda: samplers.RandomSampler(seed=own),
        "grid": lambda: samplers.RandomSampler(seed=own),
        "cmaes": lambda: samplers.CmaEsSampler(seed=own, warn_independent_sampling=False),
        # One sequence for the whole study; its place in it is kept by the storage.
        "qmc": lambda: samplers.QMCSampler(
            seed=seed,
            scramble=True,
            # Before a trial has ended, Optuna 4 knows no space to go through and draws at random.
            independent_sampler=samplers.RandomSampler(seed=own),
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental": their interface may change, their results are checked
        return makers[name]()


def make_pruner(name: str, epochs: int) -> BasePruner:
    """A pruner for trials of so many epochs, over all phases."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=_STARTUP, n_warmup_steps=max(1, epochs // 4))
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return pruners.NopPruner()
