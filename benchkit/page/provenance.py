"""Where the numbers come from: protocol, data, encoder, machine, versions, code, cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchkit.page.markup import Markup, join, tag
from benchkit.page.numbers import NOTHING, ranges
from benchkit.page.rows import Column, facts, fold, head_cell, numeric, section, table, text

if TYPE_CHECKING:
    from benchkit.page.content import Content
    from benchkit.record import Record


def provenance(content: Content) -> Markup:
    parts = [
        tag("h3", "Encoder, code and machine"),
        facts([each for each in _surroundings(content) if each[1] != NOTHING], "facts wide"),
        tag("h3", "Protocol"),
        facts([each for each in _protocol(content) if each[1] != NOTHING], "facts wide"),
        _heads(content),
        tag("h3", "Data"),
        _data(content),
        fold(f"All {len(content.records)} cells", _cells(content)),
    ]
    return section(
        "provenance",
        "Provenance",
        *parts,
        lead="As recorded with the cells. Where cells differ, each value stands with the number of cells it holds for.",
    )


def _distinct(content: Content, read: Callable[[Record], Any]) -> Markup:
    """What a field is in all cells that say so; with counts where they do not agree."""
    counts: dict[str, int] = {}
    for record in content.records:
        value = read(record)
        if value not in (None, "", {}):
            words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            counts[words] = counts.get(words, 0) + 1
    if len(counts) < 2:
        return join([next(iter(counts), NOTHING)])
    return join([tag("span", f"{value} ({count} cells)", class_="one") for value, count in counts.items()], " ")


def _surroundings(content: Content) -> Iterator[tuple[str, Markup]]:
    """Name and value, as the cells have them."""

    def row(name: str, read: Callable[[Record], Any]) -> tuple[str, Markup]:
        return name, _distinct(content, read)

    yield row("encoder", lambda each: each.encoder.get("name"))
    yield row("encoder parameters", lambda each: _count(each.parameters.get("encoder")))
    yield row("encoder fingerprint", lambda each: each.encoder.get("fingerprint"))
    yield row("encoder notes", lambda each: "; ".join(each.encoder.get("notes", ())))
    yield row("benchkit", lambda each: each.environment.get("benchkit"))
    yield row("git", lambda each: each.environment.get("git"))
    yield row("engine source", lambda each: each.identity.get("engine", {}).get("source"))
    yield row("python", lambda each: each.environment.get("python"))
    for package in dict.fromkeys(name for each in content.records for name in each.environment.get("packages", {})):
        yield row(package, lambda each, name=package: each.environment.get("packages", {}).get(name))  # type: ignore[misc]
    for name in ("processor", "platform", "device", "precision", "threads", "feature_cache", "cuda_graph", "compiled"):
        yield row(name.replace("_", " "), lambda each, name=name: each.environment.get(name))  # type: ignore[misc]
    memory = [each.peak_memory_bytes / 2**30 for each in content.records if each.peak_memory_bytes]
    if memory:
        ends = dict.fromkeys(f"{each:.1f}" for each in (min(memory), max(memory)))
        yield "peak memory of a cell", join([" to ".join(ends) + " GiB"])
    yield row("data", folder_name)


def folder_name(record: Record) -> str:
    """The data's name without its folder's place: a page is passed on, and says by sha256 what the data are."""
    return Path(str(record.data.get("name") or "")).name


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _protocol(content: Content) -> Iterator[tuple[str, Markup]]:
    names = dict.fromkeys(name for each in content.records for name in _flat(each.identity.get("protocol", {})))
    for name in names:
        yield name, _distinct(content, lambda each, name=name: _flat(each.identity.get("protocol", {})).get(name))  # type: ignore[misc]
    for name in content.results.metrics:
        yield f"{name}.loss", _distinct(content, lambda each, name=name: _task(each, name).get("loss"))  # type: ignore[misc]


def _task(record: Record, name: str) -> Mapping[str, Any]:
    return next((each for each in record.identity.get("tasks", ()) if each["name"] == name), {})


def _flat(part: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Fields by their dotted names, as `--set` has them."""
    rows: dict[str, str] = {}
    for name, value in part.items():
        if isinstance(value, Mapping):
            rows |= _flat(value, f"{prefix}{name}.")
        else:
            rows[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return rows


def _heads(content: Content) -> Markup:
    """Config and sizes of each head, as its first cell has them."""
    rows = []
    for index, head in enumerate(content.results.heads):
        records = [each for each in content.records if each.head == head]
        own = records[0].identity.get("head", {})
        config = _flat(own.get("config", {}))
        sizes = next((each.parameters for each in records if each.parameters), {})
        rows.append(
            tag(
                "tr",
                head_cell(head, index),
                text(join([tag("code", f"{name}={value}") for name, value in config.items()], " ")),
                *(numeric(_count(sizes.get(part)) or NOTHING) for part in ("head", "trunk", "branches")),
                text(tag("code", str(own.get("source", NOTHING))[:12])),
                text(ranges(each.seed for each in records)),
            )
        )
    columns = [Column("head"), Column("config")]
    columns += [Column(each) for each in ("parameters", "trunk", "branches", "source", "seeds")]
    return table("Heads", columns, rows, class_="heads")


def _data(content: Content) -> Markup:
    rows = []
    for record in content.records:
        for task, splits in record.data.get("splits", {}).items():
            for split, about in splits.items():
                sums = (about["sha256"], record.identity.get("data", {}).get(task, {}).get(split, NOTHING))
                rows.append(
                    tag(
                        "tr",
                        tag("th", f"{task} {split}", scope="row"),
                        numeric(f"{about['rows']:,}"),
                        text(about["source"]),
                        *(text(tag("code", each[:16], title=each)) for each in sums),
                    )
                )
    columns = [Column(each) for each in ("split", "rows", "file and columns", "sha256 of file", "of content")]
    return table("Splits", columns, list(dict.fromkeys(rows)), class_="data")


def _cells(content: Content) -> Markup:
    rows = [
        tag(
            "tr",
            head_cell(each.head, content.results.heads.index(each.head)),
            text(str(each.seed)),
            text(each.status),
            text(", ".join(f"{phase.name} {phase.best_epoch}/{phase.epochs}" for phase in each.phases) or NOTHING),
            text(tag("code", " ".join(phase.order_hash for phase in each.phases) or NOTHING)),
            text(tag("code", each.key)),
            text(tag("code", each.predictions_sha256[:16] or NOTHING)),
        )
        for each in content.records
    ]
    titles = ("head", "seed", "status", "best epoch", "order of batches", "cell", "sha256 of predictions")
    return table("Cells", [Column(each) for each in titles], rows, class_="cells")
