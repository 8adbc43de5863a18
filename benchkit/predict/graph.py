"""One task of a model as a function of padded word pieces: what ONNX can hold. The numbers are those of `Model`.

`MiniBert` packs sentences end to end and goes through groups of equal length, which is fast and depends on the data; a
graph must be the same for all. So here is the same trunk once more, padded and masked, on the same weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchkit.encoder.encoder import Encoder
from benchkit.encoder.model import Layer, MiniBert, activate
from benchkit.features import Layers, Pooled, Tokens
from benchkit.predict.model import Model

_FAR = -1e9  # added to a padding's attention before the softmax


class Graph(nn.Module):
    """`forward(input_ids, attention_mask, …) -> (batch, classes)` probabilities, or (batch, 1) scores.

    All inputs are (batch, time), int64. A pair encoded apart has two more, `input_ids_2` and `attention_mask_2`; one
    encoded jointly has `token_type_ids`. Float32 throughout.
    """

    def __init__(self, model: Model, task: str) -> None:
        super().__init__()
        self.encoder: Encoder = model.encoder
        self.bert, self.head = model.encoder.model, model.head
        self.shape, self.settings, self.joint = model.question(task).shape, model.settings, model.joint
        self.layers = model.encoder.check(model.settings.pooling, model.settings.layers)
        self.pair = len(model.question(task).texts) == 2

    def inputs(self) -> list[str]:
        """Names of the arguments, in order."""
        first = ["input_ids", "attention_mask"]
        if not self.pair:
            return first
        return [*first, "token_type_ids"] if self.joint else [*first, "input_ids_2", "attention_mask_2"]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *more: Tensor) -> Tensor:
        segments = more[0] if self.pair and self.joint else torch.zeros_like(input_ids)
        sides = [self._features(input_ids, attention_mask, segments)]
        if self.pair and not self.joint:
            sides.append(self._features(more[0], more[1], torch.zeros_like(more[0])))
        outputs: Tensor = self.head(_joined(sides), self.shape.name).float()
        return outputs.softmax(dim=1) if self.shape.classes else outputs

    def _features(self, ids: Tensor, mask: Tensor, segments: Tensor) -> Pooled:
        """Of one sentence or joint pair an example: (batch, 1, …)."""
        states = _states(self.bert, ids, mask, segments, max(self.layers))
        parts = [_pool(states[layer], mask, self.settings.pooling) for layer in self.layers]
        if self.settings.pooling == "pooler":
            assert self.bert.pooler is not None
            parts = [self.bert.pooler(parts[0]).tanh()]
        pooled = torch.cat(parts, dim=-1)[:, None]
        if self.settings.apart:
            return Layers.split(pooled, self.settings.apart)
        if self.settings.reads != "tokens":
            return Pooled(pooled)
        tokens = torch.cat([states[layer] for layer in self.layers], dim=-1) * mask[..., None]
        return Tokens(pooled, tokens[:, None], mask[:, None].bool())


def _joined(sides: list[Pooled]) -> Pooled:
    """The segments of an example beside each other."""
    if len(sides) == 1:
        return sides[0]
    kind = type(sides[0])
    return kind(*(torch.cat([getattr(side, name) for side in sides], dim=1) for name in kind.__dataclass_fields__))


def _states(bert: MiniBert, ids: Tensor, mask: Tensor, segments: Tensor, top: int) -> list[Tensor]:
    """Hidden states (batch, time, hidden) of the embeddings and of each layer up to `top`."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    x = bert.norm(bert.word(ids) + bert.position(positions) + bert.segment(segments))
    far = (1.0 - mask[:, None, None, :].float()) * _FAR
    states = [x]
    for layer in list(bert.layers)[:top]:
        assert isinstance(layer, Layer)
        states.append(_layer(layer, states[-1], far))
    return states


def _layer(layer: Layer, x: Tensor, far: Tensor) -> Tensor:
    batch, time, hidden = x.shape
    qkv = layer.qkv(x).view(batch, time, 3, layer.heads, hidden // layer.heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # batch heads time dim
    weights = (q @ k.transpose(-1, -2) / (hidden // layer.heads) ** 0.5 + far).softmax(dim=-1)
    mixed = (weights @ v).transpose(1, 2).reshape(batch, time, hidden)
    x = layer.norm1(layer.out(mixed) + x)
    return layer.norm2(layer.down(activate(layer.up(x), layer.activation)) + x)  # type: ignore[no-any-return]


def _pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(batch, time, hidden) to (batch, hidden)."""
    if pooling in ("cls", "pooler"):
        return states[:, 0]
    real = mask[..., None].float()
    if pooling == "max":
        return (states + (1.0 - real) * _FAR).amax(dim=1)
    return (states * real).sum(dim=1) / real.sum(dim=1)
