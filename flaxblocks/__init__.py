"""PyTorch CNNs in Flax NNX, proven identical: blocks, models, a converter that goes both ways."""

from flaxblocks import blocks, nn, parity
from flaxblocks.convert import (
    CheckpointError,
    ConversionError,
    LoadReport,
    load_torch,
    read_checkpoint,
    to_torch,
    write_checkpoint,
)
from flaxblocks.create.create import create_model
from flaxblocks.inference import compile_inference, fold_batch_norm
from flaxblocks.inspect.installation.known_bad import KnownBadJaxlib, warn_of_bad_jaxlib
from flaxblocks.models.registry import list_models
from flaxblocks.parity.selftest import selftest

__all__ = [
    "CheckpointError",
    "ConversionError",
    "KnownBadJaxlib",
    "LoadReport",
    "blocks",
    "compile_inference",
    "create_model",
    "fold_batch_norm",
    "list_models",
    "load_torch",
    "nn",
    "parity",
    "read_checkpoint",
    "selftest",
    "to_torch",
    "write_checkpoint",
]

warn_of_bad_jaxlib()
