"""Batch work. Examples lie in `examples/`."""
