"""What a run prints and writes, from its records alone: tables, CSV files, training curves."""

from benchkit.report.results import MEAN
from benchkit.report.summary import curves_frame, summary_frame
from benchkit.report.table import render
from benchkit.report.write import write_report

__all__ = ["MEAN", "curves_frame", "render", "summary_frame", "write_report"]
