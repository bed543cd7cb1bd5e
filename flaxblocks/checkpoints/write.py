"""NumPy arrays to checkpoint files.

write_checkpoint(arrays, "weights.safetensors")
"""

import os
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np

from flaxblocks.checkpoints.atomic_file import replacing
from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.formats import FORMATS, Format
from flaxblocks.checkpoints.load import reason
from flaxblocks.checkpoints.opened import check_possible
from flaxblocks.checkpoints.torch_dtypes import row_of

__all__ = ["write_checkpoint"]

ROWS = {suffix: row for row in FORMATS if row.write is not None for suffix in row.suffixes}
ORDER = (".safetensors", ".pth", ".pt", ".npz", ".orbax")


def write_checkpoint(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays as a checkpoint, whole or not at all.

    Args:
        arrays: by name. The names' order is kept in every format but Orbax's.
        path: ends in `.safetensors`, in `.pth` or `.pt` for a file that
            `torch.load(weights_only=True)` reads as an `OrderedDict` of tensors, in `.npz`, or in
            `.orbax` for a folder that Orbax restores as nested dicts.

    Raises: ValueError, before anything is written, if the suffix is another, if `arrays` is empty,
        or if a name or an array cannot be in such a file. CheckpointError if the file system
        refuses; a file that was at `path` is then as it was.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix not in ROWS:
        raise ValueError(f"path (={os.fspath(path)}) must end in {', '.join(ORDER)}")
    row = ROWS[suffix]
    _check_arrays(arrays, suffix, row)
    assert row.write is not None, "only such rows are among `ROWS`"
    try:
        check_possible(path)
        if row.is_file is not None:
            with replacing(path) as file:
                row.write(arrays, file)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be written: {reason(error)}") from None
    if row.is_folder is not None:
        row.write(arrays, path)


def _check_arrays(arrays: Mapping[str, np.ndarray], suffix: str, format: Format) -> None:
    if not arrays:
        raise ValueError("arrays (={}) must hold at least one array")
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise ValueError(f"arrays has the key {name!r}, which must be a str")
        if name == "__metadata__" and suffix == ".safetensors":
            raise ValueError("arrays has the key '__metadata__', which safetensors reserves")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"arrays has the key {quoted(name)}, which is not Unicode") from None
        if not isinstance(array, np.ndarray):
            raise ValueError(f"arrays[{name!r}] (a {type(array).__name__}) must be a NumPy array")
        row = row_of(array.dtype)
        if row is None or not format.holds(row):
            raise ValueError(
                f"arrays[{name!r}] has dtype {array.dtype}, which {suffix} cannot hold"
            )
