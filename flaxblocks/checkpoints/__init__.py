"""Checkpoint files to and from NumPy arrays by name: no JAX, no models."""
