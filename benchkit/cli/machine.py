"""`benchkit doctor` and `benchkit cache`."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

import click

from benchkit.cli import options
from benchkit.cli.output import counted, echo_json, fail, marked, size
from benchkit.core.errors import UserError, unknown

if TYPE_CHECKING:
    from benchkit.inspect.doctor import Finding
    from benchkit.store.files import Cache


@click.command(short_help="Show what this machine has and what is missing.")
@options.as_json("A list of objects, for programs and bug reports.")
def doctor(as_json: bool) -> None:
    """Look at versions, devices, plugins, data, weights, optional packages and the cache.

    Exit code 0: everything that is needed works (items marked – are optional). 1: something that is needed is broken.
    This command works even if torch does not.
    """
    from dataclasses import asdict

    from benchkit.inspect.doctor import examine

    found = examine()
    if as_json:
        echo_json([asdict(each) for each in found])
    else:
        click.echo(_rendered(found))
    if any(each.state == "broken" for each in found):
        sys.exit(1)


def _rendered(found: list[Finding]) -> str:
    width = max(len(each.name) for each in found)
    parts = []
    for section in dict.fromkeys(each.section for each in found):
        lines = [
            marked(each.state, f"{each.name:<{width}}", each.value + (f" → {each.advice}" if each.advice else ""))
            for each in found
            if each.section == section
        ]
        parts.append("\n".join([click.style(section, bold=True), *lines]))
    verdict = [f"  {each.section} {each.name}: {each.advice or each.value}" for each in found if each.state == "broken"]
    parts.append("\n".join(["What to repair", *verdict]) if verdict else "Everything that is needed works.")
    return "\n\n".join(parts)


_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_KEY = 12  # characters of a key that tell stores apart


@click.group()
def cache() -> None:
    """List, clear or verify the data stored between runs, under $BENCHKIT_CACHE or ~/.cache/benchkit."""


@cache.command("list")
@options.as_json()
def list_(as_json: bool) -> None:
    """Show each feature store: its encoder, how its texts were encoded, its size, when it was last used."""
    found = _caches()
    if as_json:
        echo_json([_as_data(each) for each in found])
    else:
        click.echo(_table(found))


@cache.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--older-than", metavar="AGE", help="Feature stores not used for this long: 12h, 30d, 4w.")
@click.option("--all", "everything", is_flag=True, help="All feature stores.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def clear(names: tuple[str, ...], older_than: str | None, everything: bool, yes: bool) -> None:
    """Remove feature stores by the beginning of their keys, or other folders of the cache by name.

    Texts of a removed store are encoded again when needed. A store that a process has locked is not removed. Exit code
    1: something was in use.
    """
    from benchkit.store.files import clear as remove

    if bool(names) + (older_than is not None) + everything != 1:
        raise UserError("say what to clear: names as benchkit cache list shows them, --older-than AGE, or --all")
    chosen = _chosen(_caches(), names, older_than)
    if not chosen:
        click.echo("nothing to clear")
        return
    if not (yes or sys.stdin.isatty()):
        raise UserError("nobody can be asked here: --yes removes without asking")
    if not yes:
        click.echo(_table(chosen))
        click.confirm("\nRemove?", abort=True)
    kept = [each for each in chosen if not remove(each)]
    removed = [each for each in chosen if each not in kept]
    click.echo(f"{counted(len(removed), 'cache')} removed, {size(sum(each.size for each in removed))} freed")
    fail(f"{each.path} is left alone, a process is using it" for each in kept)


@cache.command()
def verify() -> None:
    """Compare every stored segment with its sha256. Exit code 1: some are damaged.

    A damaged segment is never used. The next run that needs it removes it and encodes its texts again.
    """
    from benchkit.store.files import verify as check

    stores = [each for each in _caches() if each.kind == "features"]
    damaged = [damage for store in stores for damage in check(store)]
    for path, reason in damaged:
        click.echo(f"damaged: {path}: {reason}")
    verdict = f"{len(damaged)} damaged; their texts are encoded again when next needed" if damaged else "all sound"
    click.echo(f"{counted(len(stores), 'cache')}, {sum(store.files for store in stores)} segments: {verdict}")
    if damaged:
        sys.exit(1)


def _caches() -> list[Cache]:
    from benchkit.store.files import cache_root, caches

    return caches(cache_root())


def _chosen(found: list[Cache], names: tuple[str, ...], older_than: str | None) -> list[Cache]:
    for name in names:
        if not any(_matches(each, name) for each in found):
            raise unknown("cache", name, [each.name[:_KEY] for each in found])
    if names:
        return [each for each in found if any(_matches(each, name) for name in names)]
    limit = time.time() - _seconds(older_than) if older_than is not None else float("inf")
    return [each for each in found if each.kind == "features" and each.used < limit]


def _matches(cache: Cache, name: str) -> bool:
    return cache.name.startswith(name) if cache.kind == "features" and name else cache.name == name


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", age.strip())
    if match is None:
        raise UserError(f"--older-than takes hours, days or weeks, as 12h, 30d or 4w, not {age!r}")
    return float(match[1]) * _UNITS[match[2]]


def _as_data(cache: Cache) -> dict[str, object]:
    fingerprint, settings = (cache.about.encoder, cache.about.settings) if cache.about else ("", {})
    return {"name": cache.name, "kind": cache.kind, "path": str(cache.path), "encoder": cache.encoder,
            "fingerprint": fingerprint, "settings": settings, "files": cache.files, "bytes": cache.size,
            "last_used": cache.used}  # fmt: skip


def _table(found: list[Cache]) -> str:
    from benchkit.inspect import columns
    from benchkit.store.files import cache_root

    if not found:
        return f"nothing is stored in {cache_root()}"
    used = [time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)) for each in found]
    rows = [
        (each.name[:_KEY], each.encoder, size(each.size), last, _settings(each))
        for each, last in zip(found, used, strict=True)
    ]
    table = columns(("name", "encoder", "size", "last used", "what"), rows, right=("size",))
    return f"{table}\n\n{size(sum(each.size for each in found))} in {cache_root()}"


def _settings(cache: Cache) -> str:
    """How a store's texts were encoded, in the words of a protocol."""
    if cache.kind != "features":
        return f"{cache.files} files"
    if cache.about is None:
        return "features; settings.json is missing or damaged"
    settings = cache.about.settings
    layers = str(settings.get("layers", "")).strip("[]").replace(" ", "")
    parts = [settings.get(name, "?") for name in ("reads", "pooling", "precision", "device")]
    return "{}, {}, layers {layers}, {}, {}".format(*parts, layers=layers)
