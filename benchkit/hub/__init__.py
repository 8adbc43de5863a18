"""Fetching from a Hugging Face hub: data sets and encoders, resumed where they were cut, checked, recorded. No torch
but where an encoder is loaded.
"""
