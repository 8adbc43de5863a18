"""The small frozen types that all other packages speak, hooks and plugins."""
