"""A study's conclusion, drawn again later: the same protocols, the same seeds, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchkit.errors import UserError
from benchkit.plugins import load_plugins
from benchkit.runner.execute import Emit
from benchkit.runner.request import Request
from benchkit.runner.workspace import Workspace
from benchkit.store.place import cache_root
from benchkit.tune.claims import load
from benchkit.tune.final import Final, fresh_seeds, retrain, write_protocols
from benchkit.tune.storage import Storage, absolute, open_storage
from benchkit.tune.studies import read_about
from benchkit.tune.trials import best, read

_TUNED = Path("results/tune")
_AS_GIVEN = ("device", "threads", "feature_cache", "keep_encoder", "cuda_graph", "compiled")


def run_again(name: str, url: str, seeds: Sequence[int], options: Mapping[str, Any], emit: Emit) -> tuple[Final, Path]:
    """Train the best config of a study and its default, and compare them.

    Args:
        url: of the storage; "" looks into the journals under `results/tune`.
        seeds: by default those that `benchkit tune` takes.
        options: of `benchkit run`: where and how to run, and where data and encoder are.

    Returns:
        The comparison, and the folder with its cells.

    Raises:
        UserError: there is no such study, or no trial of it is complete.
    """
    storage, folder = _find(name, url)
    with closing(storage):
        about = read_about(storage, name)
        found = best([read(each) for each in load(name, storage).get_trials(deepcopy=False)])
    if found is None:
        raise UserError(f"study {name!r} has no complete trial: go on with benchkit tune --study {name}")
    files = tuple(options["head_files"]) or tuple(map(Path, about.job.cell.head_files))
    plugins = load_plugins(files)
    workspace = Workspace(plugins, cache_root(), lambda line: emit({"event": "log", "line": line}))
    out = options["out"] or folder / name / "final"
    write_protocols(out, about, found, workspace)
    request = Request(
        head_files=files,
        seeds=tuple(seeds) or fresh_seeds(3),
        data=options["data"] or "",
        encoder=options["encoder"] or "",
        out=out,
        jobs=options["jobs"] or 0,
        **{each: options[each] for each in _AS_GIVEN},
    )
    return retrain(out, request, plugins, emit), out


def _find(name: str, url: str) -> tuple[Storage, Path]:
    """The storage of a study, and the folder that its results belong in."""
    if url:
        return open_storage(absolute(url), create=False), _TUNED / "from-study"
    found = []
    for path in sorted(_TUNED.glob("*/studies.journal")):
        storage = open_storage(f"journal:{path}", create=False)
        if _has(storage, name):
            found.append((storage, path.parent))
    if not found:
        raise UserError(f"no study {name!r} in the journals under {_TUNED}: say where it is with --storage")
    if len(found) > 1:
        places = ", ".join(f"journal:{folder / 'studies.journal'}" for _, folder in found)
        raise UserError(f"study {name!r} is in several journals: choose one with --storage, of {places}")
    return found[0]


def _has(storage: Storage, name: str) -> bool:
    import optuna

    return name in optuna.get_all_study_names(storage.optuna)
