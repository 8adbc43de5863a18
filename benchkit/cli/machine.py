"""`benchkit doctor` and `benchkit cache`."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from benchkit.inspect.doctor import Finding
    from benchkit.store.cache import Cache


_MARKS = {"ok": ("✓", "green"), "note": ("–", "yellow"), "broken": ("✗", "red")}


@click.command(short_help="Say what this machine has, and what is missing for what.")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs and bug reports.")
def doctor(as_json: bool) -> None:
    """Look at versions, devices, plugins, data, weights, optional packages and the cache.

    Exit code 0: everything needed works (what is marked – is optional); 1: something that is needed is broken. Works
    where torch does not.
    """
    from benchkit.inspect.doctor import examine

    found = examine()
    if as_json:
        import dataclasses
        import json

        click.echo(json.dumps([dataclasses.asdict(each) for each in found], indent=2, ensure_ascii=False))
    else:
        click.echo(_rendered(found))
    if any(each.state == "broken" for each in found):
        raise SystemExit(1)


def _rendered(found: list[Finding]) -> str:
    width = max(len(each.name) for each in found)
    parts = []
    for section in dict.fromkeys(each.section for each in found):
        lines = [_line(each, width) for each in found if each.section == section]
        parts.append("\n".join([click.style(section, bold=True), *lines]))
    broken = [each for each in found if each.state == "broken"]
    verdict = [f"  {each.section} {each.name}: {each.advice or each.value}" for each in broken]
    parts.append("\n".join(["What to repair", *verdict]) if broken else "Everything that is needed works.")
    return "\n\n".join(parts)


def _line(finding: Finding, width: int) -> str:
    """A mark, the name, what was found; then what to do about it."""
    from textwrap import fill

    mark, colour = _MARKS[finding.state]
    advice = f" → {finding.advice}" if finding.advice else ""
    indent = " " * (width + 6)
    text = fill(finding.value + advice, 100, initial_indent=indent, subsequent_indent=indent,
                break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return f"  {click.style(mark, fg=colour)} {finding.name:<{width}}  {text.lstrip()}"


_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_KEY = 12  # characters of a key that tell stores apart


@click.group()
def cache() -> None:
    """List, clear or verify what is stored between runs, under $BENCHKIT_CACHE or ~/.cache/benchkit."""


@cache.command("list")
@click.option("--json", "as_json", is_flag=True, help="A list of objects, for programs.")
def list_(as_json: bool) -> None:
    """Show each feature store: its encoder, how its texts were encoded, its size, when it was last used."""
    from benchkit.store.cache import caches
    from benchkit.store.files import cache_root

    found = caches(cache_root())
    if as_json:
        import json

        click.echo(json.dumps([_as_data(each) for each in found], indent=2))
    else:
        click.echo(_rendered_cache(found))


@cache.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--older-than", metavar="AGE", help="All that were not used for so long: 12h, 30d, 4w.")
@click.option("--all", "everything", is_flag=True, help="All feature stores.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def clear(names: tuple[str, ...], older_than: str | None, everything: bool, yes: bool) -> None:
    """Remove feature stores, by the beginning of their keys; or another folder of the cache by its name.

    What is removed is encoded again when it is next needed. What a process holds a lock on is left alone. Exit code 1:
    something was in use.
    """
    from benchkit.core.errors import UserError
    from benchkit.store.cache import caches
    from benchkit.store.cache import clear as remove
    from benchkit.store.files import cache_root

    if bool(names) + (older_than is not None) + everything != 1:
        raise UserError("say what to clear: names as benchkit cache list shows them, --older-than AGE, or --all")
    chosen = _chosen(caches(cache_root()), names, older_than)
    if not chosen:
        click.echo("nothing to clear")
        return
    if not yes:
        click.echo(_rendered_cache(chosen))
        click.confirm("\nRemove?", abort=True)
    kept = [each for each in chosen if not remove(each)]
    for each in kept:
        click.echo(f"left alone, a process is using it: {each.path}", err=True)
    removed = [each for each in chosen if each not in kept]
    click.echo(f"{_count(len(removed))} removed, {_size(sum(each.size for each in removed))} freed")
    if kept:
        raise SystemExit(1)


@cache.command()
def verify() -> None:
    """Compare every stored segment with its sha256. Exit code 1: some are damaged.

    A damaged segment is never served: the next run that needs it removes it and encodes its texts again.
    """
    from benchkit.store.cache import caches
    from benchkit.store.cache import verify as check
    from benchkit.store.files import cache_root

    damaged, files = 0, 0
    stores = [each for each in caches(cache_root()) if each.kind == "features"]
    for store in stores:
        files += store.files
        for damage in check(store):
            damaged += 1
            click.echo(f"damaged: {damage.path}: {damage.reason}")
    verdict = f"{damaged} damaged; their texts are encoded again when next needed" if damaged else "all sound"
    click.echo(f"{_count(len(stores))}, {files} segments: {verdict}")
    if damaged:
        raise SystemExit(1)


def _chosen(found: list[Cache], names: tuple[str, ...], older_than: str | None) -> list[Cache]:
    from benchkit.core.errors import unknown

    if names:
        for name in names:
            if not any(_matches(each, name) for each in found):
                raise unknown("cache", name, [each.name[:_KEY] for each in found])
        return [each for each in found if any(_matches(each, name) for name in names)]
    stores = [each for each in found if each.kind == "features"]
    if older_than is None:
        return stores
    limit = time.time() - _seconds(older_than)
    return [each for each in stores if each.used < limit]


def _matches(cache: Cache, name: str) -> bool:
    return cache.name.startswith(name) if cache.kind == "features" and name else cache.name == name


def _seconds(age: str) -> float:
    from benchkit.core.errors import UserError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", age.strip())
    if match is None:
        raise UserError(f"--older-than takes hours, days or weeks, as 12h, 30d or 4w, not {age!r}")
    return float(match[1]) * _UNITS[match[2]]


def _as_data(cache: Cache) -> dict[str, object]:
    return {
        "name": cache.name,
        "kind": cache.kind,
        "path": str(cache.path),
        "encoder": cache.encoder,
        "fingerprint": cache.about.get("encoder", ""),
        "settings": cache.about.get("settings", {}),
        "files": cache.files,
        "bytes": cache.size,
        "last_used": cache.used,
    }


def _rendered_cache(found: list[Cache]) -> str:
    from benchkit.inspect import columns
    from benchkit.store.files import cache_root

    if not found:
        return f"nothing is stored in {cache_root()}"
    rows = [
        (each.name[:_KEY], each.encoder, _size(each.size), time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used)),
         _settings(each))
        for each in found
    ]  # fmt: skip
    table = columns(("name", "encoder", "size", "last used", "what"), rows, right=("size",))
    return f"{table}\n\n{_size(sum(each.size for each in found))} in {cache_root()}"


def _settings(cache: Cache) -> str:
    """How a store's texts were encoded, in the words of a protocol."""
    if cache.kind != "features":
        return f"{cache.files} files"
    settings = cache.about.get("settings")
    if not settings:
        return "features; settings.json is missing or damaged"
    layers = ",".join(map(str, settings["layers"]))
    return f"{settings['reads']}, {settings['pooling']}, layers {layers}, {settings['precision']}, {settings['device']}"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _count(number: int) -> str:
    return f"{number} cache" if number == 1 else f"{number} caches"
