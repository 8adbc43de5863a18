"""The three tasks of the CS224N default project: sentiment, paraphrase, similarity."""

from collections.abc import Mapping, Sequence
from functools import partial

from benchkit import Example, TaskSpec, hookimpl
from benchkit.nn import losses, metrics


def _demo(task: str, seed: int) -> Mapping[str, Sequence[Example]]:
    from benchkit_demo.sentences import make

    return make(task, seed)


def _files(name: str, course: str, *others: str) -> tuple[str, ...]:
    """Where a task may lie: normalised, as the course gives it, then folders of other collections."""
    suffixes = (".tsv.gz", ".tsv", ".csv", ".jsonl.gz", ".jsonl", ".parquet", "-00000-of-00001.parquet")
    return (
        *(f"{name}/{{split}}{suffix}" for suffix in suffixes),
        *(f"{course}-{{split}}{suffix}" for suffix in (".csv", "-student.csv")),
        *(f"{other}/{{split}}{suffix}" for other in others for suffix in suffixes),
    )


SST = TaskSpec(
    name="sst",
    summary="Sentiment of film-review sentences, five classes (Stanford Sentiment Treebank; Socher et al. 2013).",
    texts=("sentence",),
    label="label",
    classes=("very negative", "negative", "neutral", "positive", "very positive"),
    metric=metrics.accuracy,
    losses={"cross_entropy": losses.cross_entropy},
    files=_files("sst", "ids-sst", "sst5", "SST-5"),
    aliases={"sentence": ("text",), "label": ("sentiment",)},
    demo=partial(_demo, "sst"),
)

QUORA = TaskSpec(
    name="quora",
    summary="Whether two questions ask the same (Quora Question Pairs).",
    texts=("sentence1", "sentence2"),
    label="label",
    classes=("different", "duplicate"),
    similar=1,
    metric=metrics.accuracy,
    losses={"cross_entropy": losses.cross_entropy},
    files=_files("quora", "quora", "QQP", "qqp"),
    aliases={"sentence1": ("question1", "text1"), "sentence2": ("question2", "text2"), "label": ("is_duplicate",)},
    demo=partial(_demo, "quora"),
)

# Course and GLUE cut the same 8,628 pairs differently: a folder that mixes them is refused when read.
STS = TaskSpec(
    name="sts",
    summary="How similar two sentences are in meaning, 0 to 5 (STS Benchmark; Cer et al. 2017).",
    texts=("sentence1", "sentence2"),
    label="score",
    low=0.0,
    high=5.0,
    similar=4.0,
    metric=metrics.pearson,
    losses={
        "bce": losses.binary_cross_entropy,
        "mse": losses.mse,
        "pearson": losses.pearson,
        "cosent": losses.cosent,
        "calibrated_cosent": losses.calibrated_cosent,
    },
    files=_files("sts", "sts", "STS-B", "stsb"),
    aliases={"score": ("similarity", "similarity_score", "label"), "sentence1": ("text1",), "sentence2": ("text2",)},
    demo=partial(_demo, "sts"),
)


@hookimpl
def benchkit_tasks() -> list[TaskSpec]:
    return [SST, QUORA, STS]
