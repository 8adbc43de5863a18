"""What others need for the same work, measured beside ours. Imports what may not be installed."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from made_up import make_head
from made_up_files import worded_encoder
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchkit.core.features import Pooled
from benchkit.core.plugins import load_plugins
from benchkit.data import load_data
from benchkit.encoder import BertConfig, Tokenized, resolve_precision, save_encoder
from benchkit.training.batches import Batch
from benchkit.training.evaluation import PhaseContext


def sentence_transformers(setting: Any) -> Iterator[dict[str, Any]]:
    """H2: distinct strings to vectors, 6×384: its fp32 defaults, and bf16 with large batches."""
    texts = demo_texts()[: 200 if setting.smoke else None]
    encoder = worded_encoder(setting.small).to(setting.device)
    precision = resolve_precision("auto", setting.device)
    ours = setting.seconds(lambda: encoder.encode(texts, precision=precision))
    yield {"what": f"benchkit {precision}, texts/s", "value": f"{len(texts) / ours:,.0f}", "target": ""}
    try:
        import sentence_transformers as theirs
    except ImportError as error:
        yield absent("sentence-transformers", error)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_encoder(encoder, Path(folder))
        # In small batches a tenth of the texts is enough, and as many as there is time for.
        for label, kind, batch, every, target in (
            ("defaults", torch.float32, 32, 1 if setting.smoke else 10, "20× (28×)"),
            ("bf16, batches of 512", torch.bfloat16, 512, 1, "4× (6×)"),
        ):
            some = texts[::every]
            options = {"torch_dtype": kind}
            model = theirs.SentenceTransformer(folder, device=str(setting.device), model_kwargs=options)
            spent = setting.seconds(lambda: model.encode(some, batch_size=batch, show_progress_bar=False), 2)  # noqa: B023
            rate = len(some) / spent
            what = f"× sentence-transformers {theirs.__version__}, {label} ({rate:,.0f} texts/s)"
            yield {"what": what, "value": f"{len(texts) / ours / rate:.1f}", "target": target}


def absent(name: str, error: ImportError) -> dict[str, Any]:
    """What is there but cannot be imported says so: its row tells which module is missing."""
    why = " ".join(str(error).split())[:90]
    return {"what": f"{name} ({why})", "value": "not installed", "target": ""}


def demo_texts() -> list[str]:
    """All distinct texts of the demo, as many times over as make it worth measuring, each time in other words."""
    plugins = load_plugins()
    data = load_data("demo", list(map(plugins.task, ("sst", "quora", "sts"))))
    texts = {text for splits in data.values() for row in splits["train"].texts for text in row}
    return [f"{text} {number}" for number in range(20) for text in sorted(texts)]


def steps(
    work: PhaseContext, tokenized: Tokenized, config: BertConfig, batches: Sequence[Batch], ours: dict[str, float]
) -> Iterator[dict[str, Any]]:
    """H5, H6: milliseconds a batch of one task takes others, and how many times benchkit's, `ours`, that is.

    Raises:
        RuntimeError: one of them failed for another reason than not being installed; the others were measured.
    """
    peers: dict[str, Callable[[], float]] = {
        "plain Hugging Face loop, sdpa, fp32": lambda: loop_ms(work, tokenized, config, batches, work.device),
        "Trainer, defaults (fp32)": lambda: trainer_ms(work, tokenized, config, batches, work.device, bf16=False),
        "Trainer, bf16, fused AdamW": lambda: trainer_ms(work, tokenized, config, batches, work.device, bf16=True),
    }
    failed = []
    for name, measure in peers.items():
        try:
            theirs = measure()
        except ImportError as error:
            yield absent(name, error)
            continue
        except Exception as error:  # noqa: BLE001  (what strangers raise; the others are worth having)
            traceback.print_exc()
            failed.append(f"{name}: {type(error).__name__}: {error}")
            continue
        yield {"what": f"{name}: a step a task, ms", "value": f"{theirs:.1f}", "target": ""}
        for kind, mine in ours.items():
            yield {"what": f"× {name}: {kind}", "value": f"{theirs / mine:.2f}", "target": ""}
    if failed:
        raise RuntimeError("; ".join(failed))


def loop_ms(
    work: PhaseContext, tokenized: Tokenized, config: BertConfig, batches: Sequence[Batch], device: torch.device
) -> float:
    """Milliseconds of a step of what one writes first: `finetune.hugging_face`, TF32 off as torch has it."""
    from finetune import hugging_face, timed

    step, (first, rest) = hugging_face(work, tokenized, config), warm(batches)
    step(first)
    return 1e3 * timed(lambda: step(rest), device) / len(rest)


def warm(batches: Sequence[Batch], most: int = 60) -> tuple[list[Batch], list[Batch]]:
    """Whole rounds of three tasks: a few to warm up, and those to be timed."""
    count = min(len(batches), most) // 3 * 3
    cut = max(3, count // 4 // 3 * 3)
    return list(batches[:cut]), list(batches[cut:count])


def trainer_ms(
    work: PhaseContext,
    tokenized: Tokenized,
    config: BertConfig,
    batches: Sequence[Batch],
    device: torch.device,
    *,
    bf16: bool,
) -> float:
    """Milliseconds of a step of `transformers.Trainer`: as it is by default, or with `bf16` what it does best."""
    import transformers

    first, rest = warm(batches)
    times: dict[int, float] = {}

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step in (len(first), state.max_steps):
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times[state.global_step] = time.perf_counter()

    class InOrder(transformers.Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **rest: Any) -> Any:
            """The tasks take turns batch by batch, which a random order would mix."""
            return torch.utils.data.SequentialSampler(self.train_dataset)

    # Its default clips gradients and looks at each loss, for which a GPU waits; ours does neither.
    best = {"bf16": True, "optim": "adamw_torch_fused", "max_grad_norm": 0.0, "logging_nan_inf_filter": False}
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=work.settings.batch_size,
            max_steps=len(first) + len(rest),
            learning_rate=1e-6,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=device.type == "cpu",
            **(best if bf16 else {}),
        )
        trainer = InOrder(
            model=_Multitask(work, config),
            args=arguments,
            train_dataset=_examples(work, tokenized, [*first, *rest]),
            data_collator=_collate,
            callbacks=[Watch()],
        )
        # A table of losses that nobody asked for.
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    begin, end = times[len(first)], times[len(first) + len(rest)]
    return 1e3 * (end - begin) / len(rest)


class _Multitask(nn.Module):
    """`BertModel` and a head of benchkit's, as a Trainer wants a model: its loss comes out."""

    def __init__(self, work: PhaseContext, config: BertConfig) -> None:
        import transformers

        super().__init__()
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        theirs = transformers.BertConfig(**{name: getattr(config, name) for name in names})
        self.bert = transformers.BertModel(theirs, add_pooling_layer=False)
        self.head = make_head("baseline", work, config.hidden_size)
        self._work = work

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, task: str) -> dict[str, Tensor]:
        first = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        outputs = self.head(Pooled(first.view(len(labels), -1, first.shape[-1])), task)
        return {"loss": self._work.losses[task](outputs.float(), labels, self._work.shapes[task])}


def _examples(work: PhaseContext, tokenized: Tokenized, batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Examples one by one, in the order of the batches: what a dataset gives."""
    from finetune import piece

    found = []
    for task, rows in batches:
        part = work.corpus.parts[task, "train"]
        assert part.labels is not None
        for row in rows.tolist():
            pieces = [piece(tokenized, each) for each in part.rows[row].tolist()]
            found.append({"task": task, "pieces": pieces, "label": part.labels[row]})
    return found


def _collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch, padded to its longest sentence; both sentences of a pair in one call."""
    pieces = [piece for each in examples for piece in each["pieces"]]
    return {
        "input_ids": pad_sequence(pieces, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(piece) for piece in pieces], batch_first=True),
        "labels": torch.stack([each["label"] for each in examples]),
        "task": examples[0]["task"],
    }
