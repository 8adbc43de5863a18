"""Encoders and data sets from a Hugging Face hub."""
