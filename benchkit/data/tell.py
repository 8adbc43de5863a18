"""A data check as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchkit.data.check import DataCheck

SHOWN = 20
"""Broken rows listed for each split."""


def render(check: DataCheck) -> str:
    """Tables for a terminal: splits, labels, what splits share, files, broken rows, problems."""
    return "\n\n".join(_parts(check))


def _parts(check: DataCheck) -> Iterator[str]:
    yield _table(
        "Splits (words are split at white space; mean, 95th percentile and longest of a text)",
        ["task", "split", "rows", "words", "p95", "max", "duplicates", "other label", "repeated ids", "broken"],
        [
            (
                *(s.task, s.name, s.rows, f"{s.words[0]:.1f}", f"{s.words[1]:.0f}", s.words[2]),
                *(s.duplicates, s.conflicts, s.repeated_ids, len(s.broken)),
            )
            for s in check.splits
        ],
    )
    yield _table(
        "Labels",
        ["task", "split", "label", "rows", "share"],
        [
            row
            for s in check.splits
            for row in (
                [[s.task, s.name, label, n, f"{n / s.rows:.1%}"] for label, n in s.balance.items()]
                or [[s.task, s.name, "unlabelled", s.rows, ""]]
            )
        ],
    )
    if check.shared:
        yield _table(
            "Shared between splits, exact text",
            ["task", "rows of", "also in", "whole rows", "share", "rows sharing a text", "share"],
            [
                (
                    *(s.task, s.second, s.first, s.rows, f"{s.rows / s.of:.1%}"),
                    *(s.rows_with_a_text, f"{s.rows_with_a_text / s.of:.1%}"),
                )
                for s in check.shared
            ],
        )
    yield _table(
        "Files", ["task", "split", "read from", "sha256"], [[s.task, s.name, s.source, s.sha256] for s in check.splits]
    )
    for split in check.splits:
        if split.broken:
            more = len(split.broken) - SHOWN
            listed = [f"  {row}" for row in split.broken[:SHOWN]] + ([f"  and {more} more"] if more > 0 else [])
            yield "\n".join([f"Broken rows of {split.task} {split.name}, left out", *listed])
    if check.problems:
        yield "\n".join(["Problems", *(f"  {problem}" for problem in check.problems)])
    else:
        yield f"{check.source} is usable."


def _table(title: str, headers: list[str], rows: Sequence[Sequence[object]]) -> str:
    from tabulate import tabulate

    return f"{title}\n" + tabulate(rows, headers, tablefmt="simple")
