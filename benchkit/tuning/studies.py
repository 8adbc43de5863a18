"""Studies by name: found again, or made anew where anything has changed that could change a trial's numbers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from benchkit.core.errors import UserError, unknown
from benchkit.tuning.objective import Job
from benchkit.tuning.space import digest
from benchkit.tuning.storage import Storage, shown
from benchkit.tuning.trials import study_lock

_ATTRIBUTE = "benchkit"  # of a study: what it is about


@dataclass(frozen=True)
class About:
    """What a study keeps of the command that made it.

    Attributes:
        encoder, data: as the user named them.
        parts: digests of what makes trials comparable, by what a user calls it.
    """

    job: Job
    encoder: str
    data: str
    parts: Mapping[str, str]

    def to_data(self) -> dict[str, Any]:
        # The URL may hold a password, and whoever reads this has opened the storage already.
        job = json.loads(replace(self.job, storage="", cache="").to_json())
        return {"job": job, "encoder": self.encoder, "data": self.data, "parts": dict(self.parts)}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> About:
        return About(Job.from_json(json.dumps(data["job"])), data["encoder"], data["data"], data["parts"])


def parts_of(job: Job) -> dict[str, str]:
    """What two commands must agree on to work on one study. The number of trials is not of it, nor are paths."""
    names = {"head": "head", "protocol": "protocol", "tasks": "tasks", "data": "data", "encoder": "encoder"}
    names |= {"engine": "benchkit or torch", "seed": "seed"}
    names |= {"execution": "device, precision, threads, CUDA graphs or compilation"}
    found = {label: digest(job.cell.identity[part]) for part, label in names.items()}
    own = {
        "search space": job.space.to_data(),
        "objective": job.objective.name,
        "sampler": [job.sampler, job.sampler_seed],
        "pruner": job.pruner,
        "size": [job.size, list(job.widths)],
    }
    return {**found, **{label: digest(value) for label, value in own.items()}}


def open_study(storage: Storage, about: About) -> tuple[str, str]:
    """The study of that name, if it is about the same; else the first free one of NAME-2, NAME-3, …

    Returns:
        Its name, and a line that says why it is another one than was named, or "".

    Raises:
        UserError: the name is that of another head's study, or of one that is not benchkit's.
    """
    import optuna

    wanted, note = about.job.study, ""
    with storage.locks.hold(study_lock("names")):
        known = set(optuna.get_all_study_names(storage.optuna))
        for number in count(1):
            name = wanted if number == 1 else f"{wanted}-{number}"
            if name not in known:
                _create(storage, name, about)
                return name, note + f": starting study {name!r}" if note else ""
            changed = _changed(about, read_about(storage, name))
            if not changed:
                return name, note + f": going on with study {name!r}" if note else ""
            note = note or f"study {wanted!r} was made with another {', '.join(changed)}"
    raise AssertionError("unreachable")


def read_about(storage: Storage, name: str) -> About:
    """What a study is about.

    Raises:
        UserError: there is no such study, or it is not one of benchkit's.
    """
    import optuna

    names = optuna.get_all_study_names(storage.optuna)
    if name not in names:
        raise unknown(f"study in {shown(storage.url)},", name, names)
    attrs = optuna.load_study(study_name=name, storage=storage.optuna).user_attrs
    if _ATTRIBUTE not in attrs:
        raise UserError(f"study {name!r} in {shown(storage.url)} was not made by benchkit tune: use another --study")
    return About.from_data(attrs[_ATTRIBUTE])


def _create(storage: Storage, name: str, about: About) -> None:
    import optuna

    directions: Any = about.job.objective.directions
    study = optuna.create_study(study_name=name, storage=storage.optuna, directions=directions)
    named = replace(about, job=replace(about.job, study=name))
    study.set_user_attr(_ATTRIBUTE, named.to_data())
    objective = about.job.objective
    names = [objective.quality, *[objective.cost] * bool(objective.cost)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "experimental": only what a dashboard writes on its axes
        study.set_metric_names(names)


def _changed(about: About, found: About) -> list[str]:
    mine, theirs = about.job.cell.head, found.job.cell.head
    if mine != theirs:
        raise UserError(f"study {found.job.study!r} is one of head {theirs!r}, not of {mine!r}: use another --study")
    return [label for label, value in about.parts.items() if found.parts.get(label) != value]
