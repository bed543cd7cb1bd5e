"""Conversion between checkpoint files and named NumPy arrays, without JAX and without models."""
