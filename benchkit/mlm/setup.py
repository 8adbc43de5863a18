"""From what a user asks for to a model, sequences and held-out texts, ready to train."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchkit.encoder import BertConfig, Encoder, random_encoder, resolve_precision
from benchkit.encoder.tokenizer import wordpiece
from benchkit.errors import UserError
from benchkit.mlm.evaluate import HeldOut, Score
from benchkit.mlm.folder import read_head
from benchkit.mlm.masking import Pieces
from benchkit.mlm.model import MaskedLm, frequencies
from benchkit.mlm.pieces import sequences
from benchkit.mlm.recipe import Recipe
from benchkit.mlm.texts import Source, Texts, read_file, read_tasks, split_texts
from benchkit.mlm.train import Work
from benchkit.mlm.vocab import train_vocab
from benchkit.plugins import Plugins
from benchkit.runner.encoders import find_folder, open_encoder
from benchkit.runner.request import choose_device


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        data: a folder with tasks' data, or `demo`; of it the training texts of `tasks`, or of all that are there.
        columns: of the tables among `files`.
        base: an encoder to go on with, by name or folder; "" makes a new one.
        half: store the weights as fp16.
    """

    out: Path
    files: tuple[Path, ...] = ()
    data: str = ""
    tasks: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    base: str = ""
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    half: bool = False
    device: str = "auto"
    precision: str = "auto"
    threads: int = 1


@dataclass(frozen=True)
class Ready:
    """All that a training needs.

    Attributes:
        identity: what must be equal for a stored state to be gone on with.
        head: whether the head for masked words is `new` or the checkpoint's (`kept`).
        unigram: what the frequencies of the training texts' word pieces reach on the held-out ones.
    """

    work: Work
    model: MaskedLm
    tokenizer: Tokenizer
    texts: Texts
    identity: dict[str, Any]
    head: str
    unigram: Score


def prepare(request: Request, plugins: Plugins, say: Callable[[str], None]) -> Ready:
    """Read, tokenise, build; `say` is told before what takes long.

    Raises:
        UserError: no usable texts, encoder, device or precision.
    """
    recipe, device = request.recipe, choose_device(request.device)
    precision = resolve_precision(request.precision, device)
    texts = split_texts(_sources(request, plugins), recipe.held_out)
    if request.base:
        encoder = open_encoder(request.base, plugins)
    else:
        say(f"making a vocabulary of up to {recipe.vocab_size:,} word pieces from {len(texts.train):,} texts")
        encoder = _new(texts.train, recipe, request.out.name)
    tokenizer, config = encoder.tokenizer, encoder.config
    identity = {
        "recipe": dataclasses.asdict(recipe),
        "texts": texts.fingerprint,
        "encoder": encoder.fingerprint,
        "precision": precision,
    }
    longest = min(recipe.max_length, config.max_position_embeddings)
    train, held_out = (sequences(tokenizer, part, longest) for part in (texts.train, texts.held_out))
    if not len(train) or not len(held_out):
        raise UserError("the texts hold no words: nothing to train on, or nothing to hold out")
    pieces = Pieces.of(tokenizer, config.vocab_size, device)
    counted = frequencies(train.ids, pieces.special)
    model = MaskedLm(encoder.model)
    folder = find_folder(request.base) if request.base and request.base not in plugins.encoders else None
    kept = folder is not None and read_head(model, folder)
    if not kept:
        model.start_head(counted, recipe.seed)
    steps = recipe.steps or math.ceil(recipe.epochs * len(train.ids) / recipe.batch)
    work = Work(
        recipe=recipe,
        steps=steps,
        every=recipe.every or math.ceil(steps / 50),
        tokenized=train,
        pieces=pieces,
        held_out=HeldOut(held_out, pieces, device),
        device=device,
        autocast=precision == "bf16",
    )
    unigram = work.held_out.unigram(counted)
    return Ready(work, model.to(device), tokenizer, texts, identity, "kept" if kept else "new", unigram)


def _sources(request: Request, plugins: Plugins) -> list[Source]:
    sources = [read_file(path, request.columns) for path in request.files]
    if request.data:
        names = request.tasks or tuple(plugins.tasks)
        sources += read_tasks(request.data, [plugins.task(name) for name in names])
    elif request.tasks:
        raise UserError("--tasks chooses among the tasks of --data DIR, and there is none")
    if not sources:
        raise UserError("no texts: name files, or with --data a folder with the tasks' training texts (or `demo`)")
    return sources


def _new(texts: Sequence[str], recipe: Recipe, name: str) -> Encoder:
    vocab = train_vocab(texts, recipe.vocab_size, recipe.cased)
    try:
        config = BertConfig(
            vocab_size=len(vocab),
            hidden_size=recipe.hidden,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.hidden,
            max_position_embeddings=recipe.max_length,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
        )
    except ValueError as error:
        raise UserError(f"no such encoder: {error}") from None
    encoder = random_encoder(name, vocab, config, recipe.seed)
    if recipe.cased:
        encoder.tokenizer = wordpiece(vocab, name, {"do_lower_case": False})
    return encoder
