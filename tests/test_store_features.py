"""Each input is encoded once; what is damaged or not what was asked is never served."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from benchkit.encoder import BertConfig, Encoder, random_encoder
from benchkit.errors import UserError
from benchkit.features import Pooled, Tokens
from benchkit.store.features import FeatureSettings, FeatureStore, cache_root
from benchkit.store.segments import digest
from benchkit.store.tokens import MappedTokens

WORDS = ["a", "bad", "big", "cat", "dog", "film", "good", "of", "old", "saw", "the", "tree", "was", "young"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
CONFIG = BertConfig(
    vocab_size=len(VOCAB),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
)
POOLED = FeatureSettings()
TOKENS = FeatureSettings(reads="tokens", pooling="mean")


def encoder(seed: int = 0, config: BertConfig = CONFIG) -> Encoder:
    return random_encoder("tiny", VOCAB, config, seed)


def sentences(count: int) -> list[tuple[str, ...]]:
    """Distinct sentences of 3 to 12 words, the same each time."""
    generator = torch.Generator().manual_seed(1)
    result: list[tuple[str, ...]] = []
    for i in range(count):
        draw = torch.randint(len(WORDS), (3 + i % 10,), generator=generator).tolist()
        result.append((" ".join([WORDS[i % len(WORDS)], *(WORDS[word] for word in draw)]),))
    return result


class Store(FeatureStore):
    """One that remembers what it logged; segments of eight inputs."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        super().__init__(root, self.lines.append, chunk=8)

    def segments(self, settings: FeatureSettings = POOLED) -> list[Path]:
        return sorted((self.root / "features" / self.key(encoder(), settings)).glob("*.safetensors"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def pooled_one_by_one(inputs: list[tuple[str, ...]], settings: FeatureSettings) -> Tensor:
    return torch.cat([pooled for each in inputs for pooled, _ in direct([each], settings)])


def direct(inputs: list[tuple[str, ...]], settings: FeatureSettings) -> Iterator[tuple[Tensor, Tensor | None]]:
    own = encoder()
    reads = Tokens if settings.reads == "tokens" else Pooled
    for part in own.encode_chunks(
        own.tokenize(inputs, settings.max_length),
        reads=reads,
        pooling=settings.pooling,
        layers=settings.layers,
        precision=settings.precision,
    ):
        yield part.pooled, part.tokens


def test_a_row_is_its_input_encoded(store: Store) -> None:
    inputs = [*sentences(20), ("the cat", "a dog"), sentences(1)[0]]
    table = store.table(encoder(), inputs, POOLED)
    assert (len(table), table.width, table.nbytes) == (22, 16, 22 * 16 * 4)
    assert (table.report.reused, table.report.encoded) == (0, 21)
    assert len(store.segments()) == 3
    torch.testing.assert_close(table.pooled, pooled_one_by_one(inputs, POOLED))
    features = table.gather(torch.tensor([[3, 21], [20, 0]]))
    assert type(features) is Pooled
    assert torch.equal(features.pooled, table.pooled[torch.tensor([[3, 21], [20, 0]])])
    assert store.lines == []


def test_stored_inputs_are_not_encoded_again(store: Store) -> None:
    first = store.table(encoder(), sentences(20), POOLED)
    calls: list[tuple[int, int]] = []
    second = store.table(
        encoder(), sentences(30)[::-1], POOLED, progress=lambda done, total: calls.append((done, total))
    )
    assert (second.report.reused, second.report.encoded) == (20, 10)
    assert calls[-1] == (10, 10)
    assert torch.equal(second.pooled.flip(0)[:20], first.pooled)
    before = store.segments()
    again = Store(store.root).table(
        encoder(), sentences(30), POOLED, progress=lambda done, total: pytest.fail("encoded")
    )
    assert again.report.encoded == 0
    assert torch.equal(again.pooled, second.pooled.flip(0))
    assert store.segments() == before


def test_nothing_is_written_to_count_what_is_missing(store: Store) -> None:
    assert store.missing(encoder(), [*sentences(9), *sentences(3)], POOLED) == 9
    assert list(store.root.iterdir()) == []
    store.table(encoder(), sentences(5), POOLED)
    assert store.missing(encoder(), sentences(9), POOLED) == 4
    assert store.missing(encoder(), sentences(5), POOLED) == 0


def test_no_inputs(store: Store) -> None:
    table = store.table(encoder(), [], dataclasses.replace(POOLED, layers=(0, -1)))
    assert table.pooled.shape == (0, 32)


def test_inputs_are_told_apart() -> None:
    inputs = [("a", "b"), ("ab",), ("a\0b",), ("a", ""), ("", "a"), ("a",), ("",), ("1,1\0a", "b"), ("\ud800",)]
    assert len({digest(each) for each in inputs}) == len(inputs)


@pytest.mark.parametrize(
    "other",
    [
        FeatureSettings(reads="tokens"),
        FeatureSettings(pooling="mean"),
        FeatureSettings(layers=(-2,)),
        FeatureSettings(layers=(-1, -2)),
        FeatureSettings(max_length=5),
        FeatureSettings(precision="bf16"),
        FeatureSettings(device="cuda"),
    ],
)
def test_each_setting_is_part_of_the_key(store: Store, other: FeatureSettings) -> None:
    assert store.key(encoder(), POOLED) == store.key(encoder(), FeatureSettings())
    assert store.key(encoder(), other) != store.key(encoder(), POOLED)


def test_the_encoder_and_its_source_are_part_of_the_key(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {store.key(encoder(), POOLED), store.key(encoder(seed=1), POOLED)}
    changed = encoder()
    with torch.no_grad():
        next(changed.model.parameters()).view(-1)[0] += 1e-3
    rebuilt = random_encoder("tiny", [*VOCAB[:-1], "house"], CONFIG, 0)
    wide = encoder(config=dataclasses.replace(CONFIG, layer_norm_eps=1e-5))
    keys |= {store.key(each, POOLED) for each in (rebuilt, wide)}
    monkeypatch.setattr("benchkit.store.features.encoder_source", lambda: "another version")
    keys.add(store.key(encoder(), POOLED))
    assert len(keys) == 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_are_those_of_each_sentence(store: Store, precision: Literal["fp32", "bf16"]) -> None:
    settings = dataclasses.replace(TOKENS, precision=precision)
    inputs = sentences(30)
    store.table(encoder(), inputs[:20:3], settings)
    table = store.table(encoder(), inputs, settings)
    assert len(store.segments(settings)) > 3
    rows = torch.tensor([[0, 29], [7, 7], [12, 3]])
    features = table.gather(rows)
    assert isinstance(features, Tokens)
    assert features.tokens.shape[:2] == features.mask.shape[:2] == rows.shape
    assert features.tokens.dtype is torch.float32
    assert not features.tokens[~features.mask].any()
    tolerance = 2e-2 if precision == "bf16" else 1e-5
    longest = 0
    for row, tokens, mask, pooled in zip(
        rows.flatten().tolist(),
        features.tokens.flatten(0, 1),
        features.mask.flatten(0, 1),
        features.pooled.flatten(0, 1),
        strict=True,
    ):
        ((expected_pooled, expected),) = direct([inputs[row]], settings)
        assert expected is not None
        length = int(mask.sum())
        longest = max(longest, length)
        assert mask[:length].all()
        torch.testing.assert_close(tokens[:length], expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(pooled, expected_pooled[0], rtol=tolerance, atol=tolerance)
    assert features.mask.shape[2] == longest


def test_long_inputs_make_smaller_segments(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment is what the encoder computed together, or a rerun after a kill would compute other bits."""
    monkeypatch.setattr("benchkit.store.features.CHUNK_TOKENS", 100)
    monkeypatch.setattr("benchkit.encoder.stream.CHUNK_TOKENS", 100)
    inputs = sentences(40)
    table = store.table(encoder(), inputs, TOKENS)
    assert len(store.segments(TOKENS)) > 5
    lost = store.segments(TOKENS)[2]
    lost.unlink()
    assert torch.equal(store.table(encoder(), inputs, TOKENS).pooled, table.pooled)
    assert lost.exists()


def test_tokens_in_memory_are_the_tokens_on_disk(store: Store) -> None:
    table = store.table(encoder(), [*sentences(30), *sentences(4)], TOKENS)
    assert isinstance(table.tokens, MappedTokens)
    resident = dataclasses.replace(table, tokens=table.tokens.resident(torch.device("cpu")))
    assert resident.nbytes == table.nbytes
    for rows in (torch.arange(34).view(17, 2), torch.tensor([[5]]), torch.tensor([[33, 0], [2, 2]])):
        one, other = table.gather(rows), resident.gather(rows)
        assert isinstance(one, Tokens)
        assert isinstance(other, Tokens)
        assert torch.equal(one.tokens, other.tokens)
        assert torch.equal(one.mask, other.mask)
    assert type(table.pooled_only().gather(torch.tensor([[0]]))) is Pooled


def test_tokens_stay_on_disk(store: Store) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps")
    table = store.table(encoder(), sentences(9), TOKENS)
    assert isinstance(table.tokens, MappedTokens)
    for part in table.tokens.parts:
        (home,) = [line for line in maps.read_text().splitlines() if _holds(line, part.data_ptr())]
        assert ".safetensors" in home


def _holds(line: str, address: int) -> bool:
    low, high = (int(end, 16) for end in line.split()[0].split("-"))
    return low <= address < high


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how.startswith("cut"):
        path.write_bytes(content[: int(float(how[3:]) * len(content))])
    elif how.startswith("flip"):
        at = int(float(how[4:]) * (len(content) - 1))
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "longer":
        path.write_bytes(content + b"\0")
    elif how == "misnamed":
        path.replace(path.with_name(f"{'0' * 64}.safetensors"))


HOWS = [
    "cut0",
    "cut0.004",
    "cut0.2",
    "cut0.7",
    "cut0.999",
    "flip0",
    "flip0.1",
    "flip0.5",
    "flip1",
    "longer",
    "misnamed",
]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("settings", [POOLED, TOKENS], ids=["pooled", "tokens"])
def test_a_damaged_segment_is_encoded_again(store: Store, settings: FeatureSettings, how: str) -> None:
    whole = store.table(encoder(), sentences(20), settings)
    expected = whole.pooled.clone()
    sound = store.segments(settings)
    damaged(sound[1], how)
    fresh = Store(store.root)
    assert fresh.missing(encoder(), sentences(20), settings) in (4, 8)
    table = fresh.table(encoder(), sentences(20), settings)
    assert table.report.encoded in (4, 8)
    assert torch.equal(table.pooled, expected)
    (line,) = fresh.lines
    assert line.startswith("removed ")
    assert "encoded again" in line
    assert store.segments(settings) == sound  # the same bits, so the same names


def test_damage_is_noticed_within_a_process(store: Store) -> None:
    store.table(encoder(), sentences(20), POOLED)
    damaged(store.segments()[0], "flip0.9")
    table = store.table(encoder(), sentences(20), POOLED)
    assert table.report.encoded > 0
    assert len(store.lines) == 1


def test_a_segment_of_another_store_is_not_served(store: Store) -> None:
    store.table(encoder(), sentences(8), POOLED)
    other = dataclasses.replace(POOLED, pooling="mean")
    theirs = store.table(encoder(), sentences(8), other)
    (ours,), (path,) = store.segments(), store.segments(other)
    ours.replace(path.with_name(ours.name))
    path.unlink()
    table = store.table(encoder(), sentences(8), other)
    assert table.report.encoded == 8
    assert torch.equal(table.pooled, theirs.pooled)
    assert "belongs to another store" in store.lines[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_damaged_settings_are_written_again(store: Store, content: bytes) -> None:
    store.table(encoder(), sentences(8), POOLED)
    path = store.segments()[0].with_name("settings.json")
    original = path.read_bytes()
    path.write_bytes(content)
    assert store.table(encoder(), sentences(8), POOLED).report.encoded == 0
    assert path.read_bytes() == original
    assert len(store.lines) == 1


def test_a_full_disk_leaves_whole_segments_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        store = Store(folder)
        with pytest.raises(UserError, match=r"cannot write .*: No space left on device; free some space"):
            store.table(encoder(), sentences(200), TOKENS)
        kept = store.segments(TOKENS)
        left = [path.name for path in kept[0].parent.iterdir()]
        assert sorted(left) == sorted([*(path.name for path in kept), "lock", "settings.json"])
        assert Store(folder).missing(encoder(), sentences(200), TOKENS) == 200 - 8 * len(kept)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        # What is there is served without a write.
        assert store.table(encoder(), sentences(8), TOKENS).report.encoded == 0
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


SCRIPT = f"""if True:
    import os, signal, sys, time
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from pathlib import Path
    from test_store_features import POOLED, TOKENS, Store, encoder, sentences
    root = Path(sys.argv[1])
"""


def test_a_killed_process_loses_a_chunk_and_changes_no_number(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "killed"
    code = """
    for count in sys.stdin:  # a fork each, so that torch is imported once
        if not (child := os.fork()):
            Store(root).table(encoder(), sentences(1200), TOKENS)
            os._exit(0)
        while len(list(root.rglob("*.safetensors"))) < int(count):
            time.sleep(0.0007)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("killed", flush=True)
    """
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT + code, str(root)]
    found = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(8):
            print(3 + 7 * i, file=process.stdin, flush=True)
            assert process.stdout.readline() == "killed\n"
            found.append(Store(root).missing(encoder(), sentences(1200), TOKENS))
        process.stdin.close()
    assert found == sorted(found, reverse=True)  # what was stored stays
    assert 0 < found[-1] < 1200
    resumed = Store(root)
    table = resumed.table(encoder(), sentences(1200), TOKENS)
    assert table.report.encoded == found[-1]
    assert resumed.lines == []  # a kill damages nothing
    whole = store.table(encoder(), sentences(1200), TOKENS)
    assert torch.equal(table.pooled, whole.pooled)
    assert [path.name for path in resumed.segments(TOKENS)] == [path.name for path in store.segments(TOKENS)]
    assert list(resumed.segments(TOKENS)[0].parent.glob(".*")) == []


def test_processes_encode_together_once(tmp_path: Path) -> None:
    code = """
    print("ready", flush=True)
    sys.stdin.readline()
    table = Store(root).table(encoder(), sentences(400), POOLED)
    print(table.report.encoded, float(table.pooled.double().sum()).hex())
    """
    command = [sys.executable, "-c", SCRIPT + code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n", timeout=60)[0].split() for process in processes]
    assert sorted(int(count) for count, _ in outputs) == [0, 400]
    assert len({total for _, total in outputs}) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENCHKIT_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    monkeypatch.delenv("BENCHKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "benchkit"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "benchkit"


def test_a_stored_table_opens_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [(f"the {WORDS[i % 14]} {WORDS[i // 14 % 14]} saw {'a ' * (i // 196)}cat",) for i in range(2000)]
    inputs = list(dict.fromkeys(inputs))
    FeatureStore(tmp_path).table(encoder(), inputs, POOLED)
    started = time.perf_counter()
    FeatureStore(tmp_path).table(encoder(), inputs, POOLED)
    took = time.perf_counter() - started
    with capsys.disabled():
        print(f"\n{len(inputs)} stored inputs opened in {took:.3f} s")
    assert took < 1
