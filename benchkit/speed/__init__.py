"""How fast heads are on an encoder, measured so that two runs agree: `benchkit speed`."""
