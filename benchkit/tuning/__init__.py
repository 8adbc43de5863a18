"""Search for a head's best config and rates: Optuna, on stored features, blind to test."""
