"""Heads × seeds → cells → records, through an executor."""
