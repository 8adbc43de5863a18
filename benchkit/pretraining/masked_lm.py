"""The model for masked words: BERT with its head, read and written as a folder, measured on held-out texts."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn

from benchkit.core.errors import UserError
from benchkit.core.rng import generator
from benchkit.encoder import MiniBert, Tokenized
from benchkit.encoder.bert import ACTIVATIONS, activate
from benchkit.encoder.checkpoint import names, read_tensors
from benchkit.encoder.packing import Batch, gather
from benchkit.pretraining.texts import Pieces, mask, pack
from benchkit.store.files import write_atomic


class MaskedLm(nn.Module):
    """`BertForMaskedLM` with tied embeddings: the head itself has only a dense layer, a norm and a bias."""

    def __init__(self, bert: MiniBert) -> None:
        super().__init__()
        hidden = bert.config.hidden_size
        bert.pooler = None  # nothing here trains it
        self.bert = bert
        self.activation = ACTIVATIONS[bert.config.hidden_act]
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden, eps=bert.config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(bert.config.vocab_size))

    def forward(self, batch: Batch, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (n, vocab) at `positions`; `ids` (total,) replace the batch's own."""
        top = len(self.bert.layers)
        states = self.bert(ids, batch.segments, batch.layout, {top})[top]
        x = self.norm(activate(self.dense(states[positions]), self.activation))
        return F.linear(x, self.bert.word.weight, self.bias)

    @torch.no_grad()
    def start_head(self, frequencies: Tensor, seed: int) -> None:
        """Start a new head: BERT's initial weights, and a bias that predicts the word pieces' frequencies (vocab,).

        With a bias of zero, the model would spend the first hundreds of steps on learning these frequencies.
        """
        spread = self.bert.config.initializer_range
        self.dense.weight.normal_(0.0, spread, generator=generator(seed, "encoder", "masked words"))
        self.dense.bias.zero_()
        self.bias.copy_(frequencies.log())


def frequencies(ids: Tensor, special: Tensor) -> Tensor:
    """Frequencies of word pieces as targets, (vocab,), summing to one; add-one smoothing keeps them above zero."""
    counts = torch.bincount(ids.long(), minlength=len(special)).double() + 1
    counts[special.cpu()] = 1
    return (counts / counts.sum()).float()


_HEAD = {
    "dense.weight": "cls.predictions.transform.dense.weight",
    "dense.bias": "cls.predictions.transform.dense.bias",
    "norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "bias": "cls.predictions.bias",
}


def read_head(model: MaskedLm, folder: Path) -> bool:
    """Load the head's weights from a checkpoint's folder. Returns False and changes nothing if it has none.

    Raises:
        UserError: the checkpoint's head has another shape.
    """
    tensors = read_tensors(folder)
    if any(theirs not in tensors for theirs in _HEAD.values()):
        return False
    with torch.no_grad():
        for ours, theirs in _HEAD.items():
            parameter = model.get_parameter(ours)
            if tensors[theirs].shape != parameter.shape:
                found, wanted = tuple(tensors[theirs].shape), tuple(parameter.shape)
                raise UserError(f"{folder}: {theirs!r} is {found}, but config.json makes it {wanted}")
            parameter.copy_(tensors[theirs])
    return True


def write_folder(folder: Path, model: MaskedLm, tokenizer: Tokenizer, half: bool) -> None:
    """Write config, tokenizer and, last, weights as transformers reads them; each file is complete or absent.

    Args:
        half: store the weights as fp16.
    """
    dtype, config = torch.float16 if half else torch.float32, model.bert.config
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    about_model = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "dtype": str(dtype).removeprefix("torch."),
        "pad_token_id": tokenizer.token_to_id("[PAD]"),
        "tie_word_embeddings": True,
        **asdict(config),
    }
    about_tokenizer = {  # for readers of `vocab.txt`: the same as `tokenizer.json` says
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": normalizer.get("lowercase", True),
        "strip_accents": normalizer.get("strip_accents"),
        "tokenize_chinese_chars": normalizer.get("handle_chinese_chars", True),
        "model_max_length": config.max_position_embeddings,
    }
    tensors: dict[str, Tensor] = {theirs: model.get_parameter(ours) for ours, theirs in _HEAD.items()}
    for ours, theirs in names(config, pooler=False):
        parts = model.bert.get_parameter(ours).chunk(len(theirs))
        tensors |= {f"bert.{name}": part for name, part in zip(theirs, parts, strict=True)}
    weights = {name: tensor.detach().cpu().to(dtype, copy=True).contiguous() for name, tensor in tensors.items()}
    pieces = tokenizer.get_vocab()
    for name, content in (
        ("config.json", json.dumps(about_model, indent=2) + "\n"),
        ("tokenizer_config.json", json.dumps(about_tokenizer, indent=2) + "\n"),
        ("tokenizer.json", tokenizer.to_str(pretty=True) + "\n"),
        ("vocab.txt", "".join(f"{piece}\n" for piece in sorted(pieces, key=pieces.__getitem__))),
        ("model.safetensors", save(weights, metadata={"format": "pt"})),
    ):
        write_atomic(folder / name, content if isinstance(content, bytes) else content.encode(), durable=False)


# The same for every recipe and seed, so that perplexities over one vocabulary can be compared.
_RATE, _SEED, _BATCH = 0.15, 0, 4096


@dataclass(frozen=True)
class Score:
    """Mean negative log-likelihood per masked word piece in nats, and the share of pieces predicted correctly."""

    loss: float
    accuracy: float

    def numbers(self) -> dict[str, float]:
        """With the perplexity, as they are stored."""
        return {"loss": self.loss, "perplexity": math.exp(min(self.loss, 700.0)), "accuracy": self.accuracy}


class HeldOut:
    """Held-out sequences with fixed masks: always the same 15 % of the word pieces, whatever the recipe."""

    def __init__(self, tokenized: Tokenized, pieces: Pieces, device: torch.device) -> None:
        self.batches: list[tuple[Batch, Tensor, Tensor]] = []
        stream, lengths = generator(_SEED, "held out"), tokenized.lengths
        for rows in pack(torch.arange(len(lengths)), lengths, _BATCH):
            batch = gather(tokenized, rows, device, padded=device.type != "cpu")
            self.batches.append((batch, *mask(batch.ids, pieces, _RATE, False, stream)))

    @property
    def targets(self) -> Tensor:
        """Ids of all masked word pieces, (n,) int64."""
        return torch.cat([batch.ids[positions] for batch, _, positions in self.batches]).long()

    @torch.no_grad()
    def score(self, model: MaskedLm, autocast: bool) -> Score:
        """Score the model without dropout; leaves it in `train()`."""
        model.eval()
        loss, right, count = 0.0, 0, 0
        for batch, ids, positions in self.batches:
            with torch.autocast(ids.device.type, torch.bfloat16, enabled=autocast):
                logits = model(batch, ids, positions).float()
            targets = batch.ids[positions].long()
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(1) == targets).sum())
            count += len(targets)
        model.train()
        return Score(loss / count, right / count)

    def unigram(self, frequencies: Tensor) -> Score:
        """Score of predicting by the training texts' frequencies (vocab,) alone. A trained model must have a lower
        loss.
        """
        targets = self.targets.cpu()
        guess = int(frequencies.argmax())
        return Score(float(-frequencies[targets].log().mean()), float((targets == guess).float().mean()))


def write_png(curve: pd.DataFrame, unigram: Score, path: Path) -> None:
    """Plot loss (above) and share of correct predictions (below); dotted lines show frequencies alone.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    from benchkit.analysis.plots import COLOURS

    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(curve["step"], curve["loss"], "--", color=COLOURS[0], label="training")
    above.plot(curve["step"], curve["held_out_loss"], color=COLOURS[0], label="held out")
    above.axhline(unigram.loss, color="#777777", linestyle="dotted", label="frequencies alone, held out")
    above.set_ylabel("loss of a masked piece (nats)")
    below.plot(curve["step"], 100 * curve["held_out_accuracy"], color=COLOURS[0])
    below.axhline(100 * unigram.accuracy, color="#777777", linestyle="dotted")
    below.set(xlabel="step", ylabel="guessed right (%)", ylim=(0, None))
    last = curve.iloc[-1]
    above.set_title(f"perplexity {last['held_out_perplexity']:,.1f} after {last['epoch']:.2g} epochs", fontsize=10)
    above.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
