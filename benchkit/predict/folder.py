"""Folders that are either whole or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchkit.errors import UserError
from benchkit.store.atomic import writing


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, to be filled; renamed to it in the end, or removed if filling it fails.

    Raises:
        UserError: `path` is there and not empty, or cannot be written.
    """
    path = path.absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already: choose another name, or remove it first")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield inside
            inside.chmod(0o755)
            inside.replace(path)
        except BaseException:
            shutil.rmtree(inside, ignore_errors=True)
            raise
