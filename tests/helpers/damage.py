"""Damage to sound files, of the kinds that editors, disks, downloads and other programs make."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from random import Random
from typing import Any

PIECES = [
    *(b'"', b"\t", b"\n", b"\r", b"\r\n", b",", b";", b"'", b"=", b"\x00", b"../", b"label", b"null", b"true", b"[]"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\u0000", b"\\ud800", b"NaN", b"-1", b"1e400", b"9" * 400),
    *(b"[" * 5000, b'{"a":' * 5000),
]
NESTED = "[" * 5000 + "]" * 5000
VALUES: list[Any] = [
    *(None, True, [], {}, [[]], "", "x", "../x", -1, 0, 1, 0.5, 2**31, 10**30, 10**400, 1e308, float("nan")),
    *(float("inf"), "\ud800", "\x00", ["x"] * 3, {"x": 1}, "9" * 400, [[[[[[]]]]]], "<nested>"),
]


def damaged(data: bytes, random: Random) -> bytes:
    """A few edits: cut out, put in, overwritten, doubled, cut off, or a bit flipped."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice((0, 1, 2, 8, 64, len(data))))
        match random.randrange(6):
            case 0:
                data = data[:start] + data[end:]
            case 1:
                data = data[:start] + random.choice(PIECES) + data[start:]
            case 2:
                data = data[:start] + random.randbytes(min(end - start, 8)) + data[end:]
            case 3:
                data = data[:start] + data[start:end] * 2 + data[end:]
            case 4:
                data = data[:start]
            case _ if start < len(data):
                data = data[:start] + bytes([data[start] ^ 1 << random.randrange(8)]) + data[start + 1 :]
    return data


def reshaped(value: Any, random: Random) -> Any:
    """JSON with one value replaced, dropped or doubled."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        if random.random() < 0.15:
            return {name: each for name, each in value.items() if name != key}
        return {**value, key: reshaped(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        parts = random.choice(([reshaped(value[place], random)], [value[place]] * 2, []))
        return [*value[:place], *parts, *value[place + 1 :]]
    return random.choice(VALUES)


def as_json(value: Any) -> bytes:
    return json.dumps(value).replace('"<nested>"', NESTED).encode("utf-8", "surrogatepass")


def harm(path: Path, random: Random) -> None:
    """Damage one file, as bytes, or, if it is JSON or lines of JSON, in its structure."""
    data = path.read_bytes()
    structured = path.suffix in (".json", ".jsonl", ".journal") and random.random() < 0.6
    lines = data.split(b"\n") if path.suffix != ".json" else [data]
    place = random.randrange(len(lines))
    try:
        if structured:
            lines[place] = as_json(reshaped(json.loads(lines[place]), random))
            path.write_bytes(b"\n".join(lines))
            return
    except (ValueError, RecursionError):  # it is damaged already, or an empty line
        pass
    if path.suffix == ".gz" and random.random() < 0.7:
        path.write_bytes(gzip.compress(damaged(gzip.decompress(data), random)))
    else:
        path.write_bytes(damaged(data, random))
