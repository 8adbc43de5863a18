"""One HTML page that holds a whole comparison, and its plots as files: from stored cells, opened without a network."""
