"""What is kept on disk: encoded features and finished cells. Keyed, atomic, verified."""
