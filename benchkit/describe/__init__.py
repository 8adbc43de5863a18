"""What is there, for people to look at: installed plugins, heads and their layers, as text and as diagrams."""
