"""What layers and functions are called in tables and diagrams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

# Functions worth a box of their own. What is not named here only moves, masks or scales numbers.
_FUNCTIONS = {
    "cosine_similarity": "cosine similarity",
    "pairwise_distance": "distance",
    "cdist": "distance",
    "norm": "norm",
    "normalize": "normalise",
    "layer_norm": "layer norm",
    **{name: name for name in ("sigmoid", "tanh", "softmax", "exp", "log", "cumsum", "logsumexp")},
    "relu": "ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "leaky_relu": "leaky ReLU",
    "elu": "ELU",
    "abs": "absolute value",
    "square": "square",
    "sqrt": "square root",
    **dict.fromkeys(("matmul", "bmm", "mm", "einsum", "baddbmm"), "matrix product"),
    **dict.fromkeys(("linear", "addmm"), "linear"),
    **{f"conv{n}d": f"convolution, {n}-D" for n in (1, 2)},
    **{
        f"{kind}_pool{n}d": f"{kind} pooling" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for n in (1, 2)
    },
    "scaled_dot_product_attention": "attention",
    "bilinear": "bilinear",
}
_REDUCTIONS = {"mean": "mean", "sum": "sum", "amax": "maximum", "max": "maximum", "amin": "minimum", "min": "minimum"}
_JOINS = {
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack"), "concatenate"),
    "stack": "stack",
    **dict.fromkeys(("sub", "subtract", "rsub"), "difference"),
    **dict.fromkeys(("mul", "multiply", "rmul", "imul"), "product"),
    **dict.fromkeys(("add", "radd", "iadd"), "sum"),
    **dict.fromkeys(("div", "divide", "truediv", "rtruediv", "true_divide"), "quotient"),
    "maximum": "larger of both",
    "minimum": "smaller of both",
    "lerp": "mix",
}


def function_name(function: Callable[..., Any]) -> str:
    """A torch function's bare name: `__rsub__` and `sub_` are `rsub` and `sub`."""
    return str(getattr(function, "__name__", "")).strip("_")


def in_words(name: str) -> str:
    """What a function does, or "" if that is not worth telling."""
    return _FUNCTIONS.get(name) or _REDUCTIONS.get(name) or _JOINS.get(name) or ""


def is_reduction(name: str) -> bool:
    return name in _REDUCTIONS


def joins(name: str) -> bool:
    """Whether it is only worth telling where two computed tensors meet."""
    return name in _JOINS


def detail(module: nn.Module) -> str:
    """The sizes of a layer, shortly."""
    bare = "" if getattr(module, "bias", True) is not None else ", no bias"
    if isinstance(module, nn.Linear):
        return f"{module.in_features} → {module.out_features}{bare}"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        kernel = "×".join(map(str, module.kernel_size))
        return f"{module.in_channels} → {module.out_channels}, kernel {kernel}{bare}"
    if isinstance(module, nn.RNNBase):
        ways = ", bidirectional" if module.bidirectional else ""
        deep = f", {module.num_layers} layers" if module.num_layers > 1 else ""
        return f"{module.input_size} → {module.hidden_size}{ways}{deep}"
    if isinstance(module, nn.Dropout):
        return f"{module.p:g}"
    if isinstance(module, nn.MultiheadAttention):
        return f"{module.embed_dim}, {module.num_heads} heads"
    if isinstance(module, nn.Embedding):
        return f"{module.num_embeddings} × {module.embedding_dim}"
    if isinstance(module, nn.MaxPool1d | nn.AvgPool1d | nn.AdaptiveMaxPool1d | nn.AdaptiveAvgPool1d):
        size = module.kernel_size if isinstance(module, nn.MaxPool1d | nn.AvgPool1d) else module.output_size
        return f"{size[0] if isinstance(size, tuple) else size}"
    return ""
