"""What is there to look at: plugins, heads, encoders, this machine."""
