"""Weights between PyTorch and Flax: files to arrays, names to names, and arrays to variables."""

from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint, write_checkpoint
from flaxblocks.convert.convert import ConversionError, LoadReport, load_torch, to_torch

__all__ = [
    "CheckpointError",
    "ConversionError",
    "LoadReport",
    "load_torch",
    "read_checkpoint",
    "to_torch",
    "write_checkpoint",
]
