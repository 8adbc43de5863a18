"""The two-phase multitask trainer. No task or head is named here."""
