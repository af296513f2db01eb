"""Measurements: how good the world, the adapters and the methods are, with intervals."""
