"""The feature store: each distinct input is encoded only once for an encoder and a way of encoding."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchkit.core.errors import UserError
from benchkit.core.features import Pooled, Tokens
from benchkit.core.prefetch import background_writer, prefetch, synchronous
from benchkit.core.settings import plain, read_json
from benchkit.core.source import ENCODING, code_hash, numeric_versions, package_files
from benchkit.encoder.attention import kernels
from benchkit.encoder.encoder import CHUNK_TOKENS
from benchkit.store.files import FEATURES, locked, mark_used, write_atomic, writing
from benchkit.store.table import (
    BadSegment,
    FeatureTable,
    Report,
    ResidentTokens,
    Segment,
    assemble,
    digest,
    open_segment,
    write_segment,
)

if TYPE_CHECKING:
    from benchkit.encoder import Encoder
    from benchkit.encoder.encoder import EncodedChunk
    from benchkit.encoder.packing import Inputs
    from benchkit.encoder.tokenizer import Tokenized


FORMAT = 2
CHUNK = 4096  # inputs a segment: what a killed process loses at most
_TOKEN_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_LOG = logging.getLogger("benchkit")


@dataclass(frozen=True)
class FeatureSettings:
    """How inputs are encoded; all of it is part of the store's key.

    Attributes:
        reads: `pooled`, `tokens` for word pieces as well, `layers` for pooled vectors of several layers kept apart.
        pooling, layers: see `benchkit.core.protocol.Protocol`.
        max_length: word pieces kept of an input.
        precision: as resolved, not `auto`.
        device: kind of device; features from different kinds differ in the last bits.
    """

    reads: Literal["pooled", "tokens", "layers"] = "pooled"
    pooling: str = "cls"
    layers: tuple[int, ...] = (-1,)
    max_length: int = 512
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def apart(self) -> int:
        """Number of layers that are kept apart; 0 if they are concatenated."""
        return len(self.layers) if self.reads == "layers" else 0


class FeatureStore:
    """Features under `root/features/<key>/`: segments, and a `settings.json` for people to read.

    Each store object verifies a segment (see `benchkit.store.table`) once, when it opens it. A damaged segment is
    removed and its inputs are encoded again. `log` is called with one line for each such event.
    """

    def __init__(self, root: Path, log: Callable[[str], None] = _LOG.warning, chunk: int = CHUNK) -> None:
        self.root = root
        self._log = log
        self._chunk = chunk
        self._verified: dict[Path, tuple[int, int, int]] = {}

    def key(self, encoder: Encoder, settings: FeatureSettings, fingerprint: str = "") -> str:
        """Name of the folder of these features: a hash of everything that can change them, except the texts.

        Args:
            fingerprint: of the encoder, if it is known; the same in the methods below.
        """
        return self._locate(encoder, settings, fingerprint)[0].name

    def missing(
        self, encoder: Encoder, inputs: Iterable[tuple[str, ...]], settings: FeatureSettings, fingerprint: str = ""
    ) -> int:
        """How many distinct inputs `table` would encode."""
        segments, _ = self._open(self._locate(encoder, settings, fingerprint)[0])
        return len({digest(each) for each in inputs} - _stored(segments))

    def table(
        self,
        encoder: Encoder,
        inputs: Sequence[tuple[str, ...]],
        settings: FeatureSettings,
        *,
        fingerprint: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> FeatureTable:
        """The features of `inputs`: sentences (1-tuples) or joint pairs (2-tuples). Encodes what is missing.

        Args:
            progress: called with the number of inputs encoded so far and to be encoded in all.

        Raises:
            UserError: the cache cannot be written.
        """
        began, encoded = time.perf_counter(), 0
        folder, identity = self._locate(encoder, settings, fingerprint)
        digests = [digest(each) for each in inputs]
        distinct = dict(zip(digests, inputs, strict=True))
        segments, bad = self._open(folder)
        if bad or not _described(folder, identity) or not distinct.keys() <= _stored(segments):
            say = partial(self._log, f"another process encodes into {folder}: waiting for it")
            with locked(folder / "lock", wait=True, on_wait=say):
                segments, bad = self._open(folder)  # another process may have encoded them meanwhile
                self._repair(folder, bad, identity, encoder.name)
                stored = _stored(segments)
                encoded = len(distinct.keys() - stored)
                self._encode(folder, encoder, distinct, stored, settings, progress)
                segments, _ = self._open(folder)
        mark_used(folder)
        report = Report(len(distinct) - encoded, encoded, time.perf_counter() - began)
        return assemble(digests, segments, encoder.hidden * len(settings.layers), report, settings.apart)

    def _encode(
        self,
        folder: Path,
        encoder: Encoder,
        distinct: Mapping[bytes, tuple[str, ...]],
        stored: Set[bytes],
        settings: FeatureSettings,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Encode and store what is not `stored`.

        The request decides which inputs are computed together, whatever is stored already. So a run that was killed and
        restarted gets the same numbers, to the last bit.
        """
        total = len(distinct.keys() - stored)
        done = cut = 0
        if progress:
            progress(0, total)
        batches = [[name for name in batch if name not in stored] for batch in _batches(distinct, self._chunk)]
        batches = [names for names in batches if names]

        def tokenized() -> Iterator[Tokenized]:
            nonlocal cut
            for names in batches:
                pieces = encoder.tokenize([distinct[name] for name in names], settings.max_length)
                cut += pieces.truncated
                yield pieces

        def write(part: EncodedChunk) -> None:
            tokens = None if part.tokens is None else part.tokens.to(_TOKEN_TYPES[settings.precision])
            order = [batches[part.batch][row] for row in part.rows.tolist()]
            path = write_segment(folder, order, part.pooled, tokens, part.lengths)
            self._verified[path] = _state(path)  # its name was made of these very bytes

        # A GPU would stand idle meanwhile; a CPU is what is busy.
        on_gpu = encoder.device.type != "cpu"
        parts = _chunks(encoder, prefetch(tokenized()) if on_gpu else tokenized(), settings, self._chunk)
        with background_writer() if on_gpu else synchronous() as later:
            for part in parts:
                later(partial(write, part))
                done += len(part.rows)
                if progress:
                    progress(done, total)
        if cut:
            longest = min(settings.max_length, encoder.config.max_position_embeddings)
            self._log(f"encoder {encoder.name}: {cut:,} of {total:,} texts were cut to {longest} word pieces")

    def _open(self, folder: Path) -> tuple[list[Segment], dict[Path, str]]:
        """The intact segments of a folder, and for each other one the reason why it is not."""
        sound, bad = [], {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                state = _state(path)
                sound.append(open_segment(path, verify=self._verified.get(path) != state))
                self._verified[path] = state
            except BadSegment as error:
                bad[path] = str(error)
            except FileNotFoundError:
                continue  # another process found it bad and removed it
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}; remove it or set BENCHKIT_CACHE") from error
        return sound, bad

    def _repair(self, folder: Path, bad: Mapping[Path, str], identity: Mapping[str, Any], name: str) -> None:
        """Remove damaged segments and correct `settings.json`, under the folder's lock."""
        for path, why in bad.items():
            self._log(f"removed {path} ({why}): its inputs are encoded again")
            with writing(path):
                path.unlink(missing_ok=True)
        if not _described(folder, identity):
            path = folder / "settings.json"
            if path.exists():
                self._log(f"{path} was damaged: written again")
            text = json.dumps({**identity, "written_by": {"encoder": name}}, indent=2)
            write_atomic(path, text.encode() + b"\n")

    def _locate(self, encoder: Encoder, settings: FeatureSettings, fingerprint: str) -> tuple[Path, dict[str, Any]]:
        """The folder of the features, and their identity, whose hash names the folder."""
        if settings.reads == "layers":  # kept apart or side by side, the vectors are the same
            settings = dataclasses.replace(settings, reads="pooled")
        identity = {
            "format": FORMAT,
            "encoder": fingerprint or encoder.fingerprint,
            "encoder_source": encoder_source(),
            "settings": plain(settings),
            "kernels": kernels() if settings.device == "cuda" else "",
            **numeric_versions(),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        return self.root / FEATURES / key, identity


def _state(path: Path) -> tuple[int, int, int]:
    """The values by which a changed file is recognised."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def encoder_source() -> str:
    """Hash of the modules that compute features, since other code may give other numbers."""
    return code_hash(package_files(ENCODING))


def _described(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `settings.json` agrees with the folder's name. Segments do not depend on it."""
    try:
        found = read_json(folder / "settings.json")
    except UserError:
        return False
    return {name: found.get(name) for name in identity} == identity


def _stored(segments: Iterable[Segment]) -> set[bytes]:
    return {name for segment in segments for name in segment.digests}


def _batches(inputs: Mapping[bytes, tuple[str, ...]], size: int) -> Iterator[list[bytes]]:
    """Up to `size` inputs, fewer where they are long: no more word pieces than the encoder gives back at once.

    So a batch is one segment, and a killed process leaves all of it or none.
    """
    batch: list[bytes] = []
    left = CHUNK_TOKENS
    for name, texts in inputs.items():
        pieces = sum(map(len, texts)) + 3  # at most: a character each, and the special ones
        if batch and (len(batch) == size or pieces > left):
            yield batch
            batch, left = [], CHUNK_TOKENS
        batch.append(name)
        left -= pieces
    if batch:
        yield batch


def _chunks(
    encoder: Encoder, batches: Iterable[Inputs], settings: FeatureSettings, chunk: int
) -> Iterator[EncodedChunk]:
    return encoder.encode_chunks(
        batches,
        reads=Tokens if settings.reads == "tokens" else Pooled,
        pooling=settings.pooling,
        layers=settings.layers,
        precision=settings.precision,
        chunk=chunk,
    )


def encode_table(encoder: Encoder, tokenized: Inputs, settings: FeatureSettings) -> FeatureTable:
    """The features of `tokenized` from the encoder as it is now, in memory, on the CPU."""
    began, count = time.perf_counter(), len(tokenized)
    chunks = list(_chunks(encoder, [tokenized], settings, 4 * CHUNK))
    pooled = torch.empty((count, encoder.hidden * len(settings.layers)))
    start, length = torch.empty((2, count), dtype=torch.int64)
    end = 0
    for chunk in chunks:
        pooled[chunk.rows], length[chunk.rows] = chunk.pooled, chunk.lengths
        start[chunk.rows] = end + chunk.lengths.cumsum(0) - chunk.lengths
        end += int(chunk.lengths.sum())
    pieces = [chunk.tokens for chunk in chunks if chunk.tokens is not None]
    tokens = ResidentTokens(torch.cat(pieces), start, length) if pieces else None
    return FeatureTable(pooled, tokens, Report(0, count, time.perf_counter() - began), settings.apart)
