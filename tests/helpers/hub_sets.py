"""Small repositories laid out as those of `benchkit.hub.datasets`."""

from __future__ import annotations

import gzip
import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from benchkit.hub.datasets import Source, sources
from benchkit.hub.download import RemoteFile
from helpers.hub import COMMIT, etag

WORDS = ("films", "boats", "songs", "roads", "birds", "games", "books", "trees")


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sst(count: int, seed: str) -> bytes:
    rows = [{"text": f"{seed} {WORDS[n % 8]} number {n}", "label": n % 5, "label_text": "x"} for n in range(count)]
    return lines(rows)


def pairs(count: int) -> list[dict[str, object]]:
    return [
        {"sentence1": f"Why {WORDS[n % 8]} {n}?", "sentence2": f"How {WORDS[n % 7]} {n}?", "label": n % 2}
        for n in range(count)
    ]


def parquet(rows: list[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def sts(count: int, seed: str) -> bytes:
    rows: list[dict[str, object]] = [
        {"sentence1": f"{seed} {n} sing", "sentence2": f"{seed} {n} hum", "score": n % 6 * 1.0} for n in range(count)
    ]
    return gzip.compress(lines(rows), mtime=0)


SST, QUORA, STS = (sources()[task] for task in ("sst", "quora", "sts"))
CONTENT = {
    SST.repo: {"train.jsonl": sst(20, "a"), "dev.jsonl": sst(10, "b"), "test.jsonl": sst(10, "c"), "README.md": b"x"},
    QUORA.repo: {QUORA.files[0].path: parquet(pairs(400))},
    STS.repo: {"train.jsonl.gz": sts(12, "d"), "validation.jsonl.gz": sts(6, "e"), "test.jsonl.gz": sts(6, "f")},
}
ROWS = {"sst": {"train": 20, "dev": 10, "test": 10}, "quora": {"all": 400}, "sts": {"train": 12, "dev": 6, "test": 6}}


def small(source: Source) -> Source:
    """A source with our small files, pinned as the real one is."""
    content = CONTENT[source.repo]
    files = [RemoteFile(f.path, len(content[f.path]), etag("x.bin", content[f.path])) for f in source.files]
    return replace(source, revision=COMMIT, files=tuple(files), rows=ROWS[source.task])


SMALL = {task: small(source) for task, source in sources().items()}
