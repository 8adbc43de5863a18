"""Masked-language-model training of a miniBERT: from texts to an encoder's folder."""
