"""For authors of heads: blocks, losses, metrics."""
