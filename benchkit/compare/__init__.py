"""Two runs side by side, and a run beside the report's numbers."""
