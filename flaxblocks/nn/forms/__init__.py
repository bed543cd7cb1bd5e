"""Formulations of convolutions: the same numbers, as the device computes them fastest."""
