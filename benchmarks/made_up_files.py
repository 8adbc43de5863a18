"""Made-up data and encoders as files, for what is measured from the command a user types: words that mean nothing, one
word piece each or with one more behind it, in sentences as long as the real ones are (`made_up.LENGTHS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from pathlib import Path
from random import Random

from made_up import LENGTHS, SHAPES

from benchkit.core.plugins import load_plugins
from benchkit.core.task import TaskSpec
from benchkit.encoder import BertConfig, Encoder, random_encoder, save_encoder

ENTRIES = 30522  # of bert-base-uncased's vocabulary
_SYLLABLES = ["".join(each) for each in product("bdfgklmnprstvz", "aeiou")]
_STEMS = ["".join(each) for each in islice(product(_SYLLABLES, repeat=3), 20000)]
_ENDINGS = [f"##{each}" for each in _SYLLABLES]
# One piece in seven goes on with the word before it, about as in English text.
_PIECES = _STEMS + _ENDINGS * (len(_STEMS) // len(_ENDINGS) // 6)


def worded_encoder(shape: str, entries: int = 0) -> Encoder:
    """Random weights; the demo encoder's words and, with `entries`, the made-up ones and as many more as it takes."""
    words = load_plugins().encoders["demo"].load().tokenizer.get_vocab()
    vocabulary = sorted(words, key=words.__getitem__)
    if entries:
        vocabulary = list(dict.fromkeys([*vocabulary, *_STEMS, *_ENDINGS]))
        vocabulary += [f"[unused{number}]" for number in range(entries - len(vocabulary))]
    layers, hidden, heads = SHAPES[shape]
    config = BertConfig(len(vocabulary), hidden, layers, heads, 4 * hidden)
    return random_encoder("random", vocabulary, config, seed=0)


def write_encoder(folder: Path, shape: str) -> Path:
    save_encoder(worded_encoder(shape, ENTRIES), folder)
    return folder


def write_data(folder: Path, rows: Mapping[str, Mapping[str, int]]) -> Path:
    """A data folder (see docs/data.md): `rows` by task and split, with random labels."""
    random, plugins = Random(0), load_plugins()
    for name, splits in rows.items():
        (folder / name).mkdir(parents=True)
        for split, count in splits.items():
            lines = "\n".join(_lines(plugins.task(name), count, random))
            (folder / name / f"{split}.tsv").write_text(lines + "\n", encoding="utf-8")
    return folder


def _lines(task: TaskSpec, count: int, random: Random) -> Iterator[str]:
    yield "\t".join(["id", *task.texts, task.label])
    for number in range(count):
        texts = [_sentence(random, *LENGTHS[task.name]) for _ in task.texts]
        label = random.randrange(len(task.classes)) if task.classes else round(random.uniform(task.low, task.high), 2)
        yield "\t".join([f"r{number}", *texts, str(label)])


def _sentence(random: Random, mean: float, deviation: float) -> str:
    pieces = min(max(round(random.lognormvariate(mean, deviation)), 1), 126)
    return " ".join([random.choice(_STEMS), *random.choices(_PIECES, k=pieces - 1)]).replace(" ##", "")
