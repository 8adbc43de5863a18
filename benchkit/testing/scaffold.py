"""Starting a package: the files beside this one, filled in with a head's name. No torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from string import Template

import benchkit
from benchkit.core.errors import UserError
from benchkit.core.protocol import phase_names

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

# Where a template goes. They are stored flat and as text: nothing here may be taken for a module, or ignored by git.
LAYOUT = {
    "pyproject.toml.txt": "pyproject.toml",
    "module.py.txt": "$module.py",
    "test_module.py.txt": "tests/test_$module.py",
    "README.md.txt": "README.md",
    "LICENSE.txt": "LICENSE",
    "ci.yml.txt": ".github/workflows/ci.yml",
    "gitignore.txt": ".gitignore",
}


@dataclass(frozen=True)
class Names:
    """Everything that is called after a head's name, `my-head`."""

    name: str

    @property
    def distribution(self) -> str:
        return f"benchkit-{self.name}"

    @property
    def module(self) -> str:
        return f"benchkit_{self.name.replace('-', '_')}"

    @property
    def words(self) -> str:
        """`MyHead`; a name that ends in `head` does not end in it twice."""
        return "".join(part.capitalize() for part in self.name.split("-")).removesuffix("Head")

    def values(self) -> dict[str, str]:
        """What the templates may ask for."""
        return {
            "name": self.name,
            "distribution": self.distribution,
            "module": self.module,
            "head": f"{self.words}Head",
            "config": f"{self.words}Config",
            "summary": "Normalise, a shared linear, and a linear a task.",
            "version": benchkit.__version__,
            "year": str(datetime.now(tz=UTC).year),
        }


def check_name(name: str, taken: Collection[str]) -> Names:
    """The names that follow from a head's name.

    Args:
        taken: names that heads, tasks and plugins have already.

    Raises:
        UserError: it cannot be used, or somebody has it.
    """
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        hint = f"; {near!r} would do" if _NAME.fullmatch(near) else ""
        raise UserError(
            f"a head's name has lower-case letters, digits and single -, a letter first, not {name!r}{hint}"
        )
    if name.startswith("benchkit"):
        raise UserError(f"name the head alone, such as 'my-head', not {name!r}: its package is called benchkit-NAME")
    if name in {"mean", *phase_names()}:
        raise UserError(f"{name!r} has a meaning in protocols or tables: choose another name")
    names = Names(name)
    if name in taken or find_spec(names.module) is not None:
        raise UserError(f"the name {name!r} is taken by an installed plugin: choose another, or see benchkit heads")
    return names


def write_package(names: Names, folder: Path) -> Path:
    """Write `folder/benchkit-NAME`, whole or not at all, and return it.

    Raises:
        UserError: `folder` is no folder, or cannot be written to; the package is there already.
    """
    place = folder / names.distribution
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: create it, or choose another with --dir")
    if place.exists():
        raise UserError(f"{place} exists already: remove it, or choose another name or --dir")
    # Beside its place, so that one rename puts it there; with the mode that the umask says, which `mkdtemp` ignores.
    draft = folder / f".{names.distribution}-{token_hex(4)}"
    try:
        draft.mkdir()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        _fill(draft, names.values())
        draft.rename(place)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return place


def _fill(folder: Path, values: dict[str, str]) -> None:
    templates = files("benchkit.testing") / "templates"
    for source, target in LAYOUT.items():
        path = folder / Template(target).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template((templates / source).read_text("utf-8")).substitute(values), encoding="utf-8")
