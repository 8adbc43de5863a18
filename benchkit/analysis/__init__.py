"""From records to tables, verdicts, curves, pages. Trains nothing."""
