"""Mapping the names and axes of a module's variables to PyTorch's, without the registry."""
