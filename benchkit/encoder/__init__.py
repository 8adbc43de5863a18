"""miniBERT, its tokenizer and its checkpoints: from texts to features."""

from benchkit.encoder.config import BertConfig
from benchkit.encoder.encoder import Encoder
from benchkit.encoder.load import load_encoder, random_encoder, save_encoder
from benchkit.encoder.macs import encoder_macs
from benchkit.encoder.model import MiniBert
from benchkit.encoder.precision import resolve_precision
from benchkit.encoder.spec import EncoderSpec
from benchkit.encoder.stream import EncodedChunk
from benchkit.encoder.tokenizer import Tokenized

__all__ = [
    "BertConfig",
    "EncodedChunk",
    "Encoder",
    "EncoderSpec",
    "MiniBert",
    "Tokenized",
    "encoder_macs",
    "load_encoder",
    "random_encoder",
    "resolve_precision",
    "save_encoder",
]
