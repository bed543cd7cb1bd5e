"""Reading what a caller passes as weights: a file or folder, or a mapping in memory."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxblocks.checkpoints.contents import Contents, StateDict, contents_of
from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.convert.batch_counts import read_counts
from flaxblocks.convert.fit import ConversionError

__all__ = ["MAPPING", "arrays_of", "read_source"]

MAPPING = "the mapping"  # the name of contents from memory


def read_source(source: str | os.PathLike[str] | Mapping[str, Any]) -> Contents:
    """Read a file, a folder or a mapping.

    Raises: CheckpointError for a file that cannot be read; ConversionError for any other source
        without arrays.
    """
    if isinstance(source, Mapping) and not source:
        raise ConversionError("the checkpoint holds no arrays")
    try:
        return contents_of(source)
    except CheckpointError as error:
        if isinstance(source, str | os.PathLike):
            raise
        raise ConversionError(str(error)) from error


def arrays_of(state: StateDict, contents: Contents) -> dict[str, np.ndarray]:
    """The arrays of a state dict, with batch counts as PyTorch reads them.

    Raises: as `read_source`.
    """
    try:
        return read_counts(state.arrays)
    except CheckpointError as error:
        if contents.name != MAPPING:
            raise
        raise ConversionError(str(error)) from error
