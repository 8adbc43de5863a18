"""Data: reading the tasks' splits from a folder, drawing subsets, checking what a folder holds. No torch."""

from benchkit.data.check import DataCheck, check_data, label_problems
from benchkit.data.readers import load_data, present
from benchkit.data.splits import Split, subsample

__all__ = ["DataCheck", "Split", "check_data", "label_problems", "load_data", "present", "subsample"]
