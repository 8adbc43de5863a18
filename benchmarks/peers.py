"""Others that turn sentences into vectors, side by side with benchkit in one process, in turns.

`python benchmarks/peers.py FOLDER` compares them all from strings. `targets.py` takes its opponents from here.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchkit.encoder import load_encoder, resolve_precision

MAX_LENGTH = 256  # what sentence-transformers uses for all-MiniLM-L6-v2
Encode = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Peer:
    """One way to encode: from strings to (n, hidden) float32, on the CPU."""

    name: str
    precision: str
    encode: Encode


def ours(folder: Path, precision: str = "auto") -> Peer:
    encoder = load_encoder(folder).to(device())
    resolved = resolve_precision(precision, encoder.device)
    return Peer("benchkit", resolved, lambda texts: encoder.encode(texts, precision=resolved, max_length=MAX_LENGTH))


def plain_loop(folder: Path, *, by_length: bool = False) -> Peer:
    """Hugging Face's BERT in fp32: batches of 64 as they come, or by length, padded to their longest; the mean."""
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = (
        AutoTokenizer.from_pretrained(folder),
        BertModel.from_pretrained(folder).float().eval().to(device()),
    )

    @torch.inference_mode()
    def encode(texts: list[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i])) if by_length else list(range(len(texts)))
        result = torch.empty(len(texts), model.config.hidden_size)
        for start in range(0, len(texts), 64):
            rows = order[start : start + 64]
            batch = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
            ).to(device())
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            result[rows] = ((states * mask).sum(1) / mask.sum(1)).cpu()
        return result

    return Peer("transformers loop" + ", by length" * by_length, "fp32", encode)


def sentence_transformers(folder: Path, precision: str = "fp32") -> Peer:
    """Its defaults (it sorts by length itself), in fp32 or with weights in bf16; normalised as the folder says."""
    from sentence_transformers import SentenceTransformer

    # Said in either case: a checkpoint that was stored in fp16 would be computed in fp16.
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    model = SentenceTransformer(str(folder), device=str(device()), model_kwargs={"torch_dtype": kind})
    model.max_seq_length = MAX_LENGTH

    def encode(texts: list[str]) -> Tensor:
        found: Tensor = model.encode(texts, show_progress_bar=False, convert_to_tensor=True)
        return found.float().cpu()

    return Peer("sentence-transformers", precision, encode)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16() -> bool:
    return resolve_precision("auto", device()) == "bf16"


@dataclass(frozen=True)
class Taken:
    """Seconds of one peer, a value a round, and the vectors of the last."""

    peer: Peer
    wall: list[float]
    cpu: list[float]
    vectors: Tensor


def side_by_side(peers: Sequence[Peer], texts: list[str], rounds: int) -> list[Taken]:
    """All peers in turns, forth and back, each after a few texts to warm up. They must agree on the directions."""
    taken = [Taken(peer, [], [], torch.empty(0)) for peer in peers]
    for peer in peers:
        peer.encode(texts[:64])
    for number in range(rounds):
        for i in range(len(peers)) if number % 2 == 0 else reversed(range(len(peers))):
            wall, cpu = time.perf_counter(), time.process_time()
            vectors = peers[i].encode(texts)
            taken[i].wall.append(time.perf_counter() - wall)
            taken[i].cpu.append(time.process_time() - cpu)
            taken[i] = Taken(peers[i], taken[i].wall, taken[i].cpu, vectors)
    for each in taken[1:]:
        cosine = torch.nn.functional.cosine_similarity(each.vectors, taken[0].vectors).min()
        if cosine < 0.99:
            raise SystemExit(f"{each.peer.name} ({each.peer.precision}) computes something else: cosine {cosine:.3f}")
    return taken


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of times in the same round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def read_texts(limit: int) -> tuple[list[str], str]:
    """Distinct sentences in random order: of the dev splits in BENCHKIT_DATA, else made ones of like lengths."""
    data, stream = os.environ.get("BENCHKIT_DATA"), random.Random(0)
    if not data:
        # Quora's and SST's word counts are close to log-normal.
        words = ["time", "people", "what", "good", "unbelievable", "movie", "the", "of", "algorithm", "is", "India"]
        counts = [min(60, max(3, round(stream.lognormvariate(2.3, 0.45)))) for _ in range(limit)]
        return [" ".join(stream.choices(words, k=count)) for count in counts], "made up (BENCHKIT_DATA is not set)"
    texts = []
    for path in sorted(Path(data, "benchmark").glob("*/dev.tsv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                texts += [value for name, value in row.items() if name.startswith("sentence")]
    texts = list(dict.fromkeys(texts))
    stream.shuffle(texts)
    return texts[:limit], "dev splits of sst, sts and quora"


def machine() -> str:
    """What numbers belong to."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.machine()
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else processor
    bf16 = "with" if has_bf16() else "without"
    packages = ", ".join(f"{each} {version(each)}" for each in ("torch", "transformers", "sentence-transformers"))
    return f"{name} ({bf16} bf16), {os.cpu_count()} cores, {torch.get_num_threads()} in use; {packages}"


def table(taken: Sequence[Taken], count: int) -> str:
    lines = ["| method | precision | s | CPU s | sentences/s | × time | × CPU time |", "|---|---|" + "---:|" * 5]
    for each in taken:
        wall, cpu = statistics.median(each.wall), statistics.median(each.cpu)
        ratios = f"{ratio(each.wall, taken[0].wall):.2f} | {ratio(each.cpu, taken[0].cpu):.2f}"
        lines.append(
            f"| {each.peer.name} | {each.peer.precision} | {wall:.2f} | {cpu:.2f} | {count / wall:,.0f} | {ratios} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="encoder folder, with what sentence-transformers needs")
    parser.add_argument("--limit", type=int, default=2000, help="sentences (default 2000)")
    parser.add_argument("--rounds", type=int, default=3, help="times each runs (default 3)")
    parser.add_argument("--threads", type=int, help="default: torch's")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    texts, source = read_texts(args.limit)
    peers = [ours(args.folder, "fp32"), plain_loop(args.folder), plain_loop(args.folder, by_length=True)]
    peers.append(sentence_transformers(args.folder))
    if has_bf16():
        peers = [ours(args.folder, "bf16"), *peers, sentence_transformers(args.folder, "bf16")]
    print(f"{machine()}; {len(texts)} distinct sentences: {source}; {args.rounds} rounds, medians\n")
    print(table(side_by_side(peers, texts, args.rounds), len(texts)))


if __name__ == "__main__":
    main()
