"""What several test files build on: small encoders, stores, corpora and heads."""
