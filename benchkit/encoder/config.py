"""The shape of a BERT, as read from a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from benchkit.errors import UserError

# How activations are called in configs, and which function each name means.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class BertConfig:
    """A BERT's shape. Field names and defaults are those of Hugging Face's `config.json` (bert-base-uncased).

    Raises:
        ValueError: a size that is not a positive whole number, heads that do not divide the hidden size, a dropout
            outside [0, 1), or an activation that is not known.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{field.name} must be a whole number, at least 1, not {value!r}")
            if field.type == "float" and (not isinstance(value, int | float) or not 0 <= value < 1):
                raise ValueError(f"{field.name} must be a number from 0 to below 1, not {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"{self.num_attention_heads} heads do not divide hidden_size {self.hidden_size}")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act {self.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> BertConfig:
        """From the content of a `config.json`; `where` names it in messages.

        Raises:
            UserError: it describes something else than a BERT encoder, or a size is missing or impossible.
        """
        kind = values.get("model_type", "bert")
        if kind != "bert":
            why = f" ({_OTHERS[kind]})" if kind in _OTHERS else ""
            raise UserError(f"{where}: model_type is {kind!r}{why}; only 'bert' and 'distilbert' can be loaded")
        position = values.get("position_embedding_type", "absolute")
        if position != "absolute":
            raise UserError(f"{where}: position_embedding_type is {position!r}; only 'absolute' can be loaded")
        for flag in ("is_decoder", "add_cross_attention"):
            if values.get(flag):
                raise UserError(f"{where}: {flag} is set; only encoders can be loaded")
        missing = [name for name in _SIZES if name not in values]
        if missing:
            raise UserError(f"{where}: {', '.join(missing)} missing; is this the config.json of a BERT?")
        try:
            return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}") from None


# What people try most, and why it is not a BERT.
_OTHERS = {
    "mpnet": "its attention has a relative position bias",
    "roberta": "its word pieces and positions are counted in another way",
    "xlm-roberta": "its word pieces and positions are counted in another way",
    "albert": "its layers share their weights",
    "electra": "its embeddings are projected",
    "deberta": "its attention has relative positions",
    "deberta-v2": "its attention has relative positions",
    "modernbert": "its positions are rotary",
    "nomic_bert": "its positions are rotary",
    "new": "its positions are rotary",
    "t5": "it is not an encoder alone",
}

# What a config.json must say itself: a default here would only surface later, as a shape that does not fit.
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
