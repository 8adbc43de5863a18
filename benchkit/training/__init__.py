"""The multitask trainer: batches, steps, epochs, scoring. No task or head is named in it."""
