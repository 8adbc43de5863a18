"""miniBERT, its tokenizer and its checkpoints: from texts to features."""

from benchkit.encoder.bert import BertConfig, MiniBert
from benchkit.encoder.checkpoint import load_encoder, random_encoder, save_encoder
from benchkit.encoder.encoder import Encoder, EncoderSpec, resolve_precision
from benchkit.encoder.tokenizer import Tokenized

__all__ = ["BertConfig", "Encoder", "EncoderSpec", "MiniBert", "Tokenized", "load_encoder", "random_encoder",
           "resolve_precision", "save_encoder"]  # fmt: skip
