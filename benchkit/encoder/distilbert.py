"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): a BERT without segments and pooler, under other names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_CONFIG = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
_SAME = ("vocab_size", "max_position_embeddings", "initializer_range")
_PARTS = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_LAYER = re.compile(r"transformer\.layer\.(\d+)\.(.+)\.(weight|bias)")
SEGMENTS = 2


def as_bert_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of DistilBERT's `config.json` under BERT's names."""
    config = {ours: values[theirs] for theirs, ours in _CONFIG.items() if theirs in values}
    config |= {name: values[name] for name in _SAME if name in values}
    return {"model_type": "bert", "type_vocab_size": SEGMENTS, "layer_norm_eps": 1e-12, **config}


def as_bert_name(name: str) -> str:
    """BERT's name of a tensor."""
    name = name.removeprefix("distilbert.")
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in _PARTS:
        return name
    return f"encoder.layer.{match[1]}.{_PARTS[match[2]]}.{match[3]}"
