"""Real data and weights by environment; one thread; a feature cache that is not the user's."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Before anything imports torch, and inherited by the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the normalised tasks: `sst/`, `sts/`, `quora/`, each with train, dev and test."""
    return _folder("BENCHKIT_DATA") / "benchmark"


@pytest.fixture(scope="session")
def weights() -> Callable[[str], Path]:
    """Folder of a real encoder checkpoint, by name: `weights("all-MiniLM-L6-v2")`."""

    def folder(name: str) -> Path:
        path = _folder("BENCHKIT_WEIGHTS") / name
        if not path.is_dir():
            pytest.skip(f"no {name} in $BENCHKIT_WEIGHTS")
        return path

    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that no worker ends alone with one."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"${variable} is not set")
    path = Path(value)
    if not path.is_dir():  # set but wrong is a mistake, not a reason to test less
        pytest.fail(f"${variable} names no folder: {value}")
    return path


@pytest.fixture(scope="session", autouse=True)
def _own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache for the session, so that features are shared; all installed plugins; a terminal of one width."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # shared by the workers
    os.environ["BENCHKIT_CACHE"] = str(base / "benchkit-cache")
    os.environ["COLUMNS"] = "100"
    os.environ.pop("BENCHKIT_PLUGINS", None)
