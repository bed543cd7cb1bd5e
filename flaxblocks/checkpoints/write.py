"""NumPy arrays to checkpoint files.

write_checkpoint(arrays, "weights.safetensors")
"""

import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from flaxblocks.checkpoints.atomic_file import replacing
from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.formats import FORMATS, Format
from flaxblocks.checkpoints.load import reason
from flaxblocks.checkpoints.opened import check_possible
from flaxblocks.checkpoints.orbax_folder import is_state, write_orbax
from flaxblocks.checkpoints.torch_dtypes import row_of

__all__ = ["write_checkpoint"]

ROWS = {suffix: row for row in FORMATS if row.write is not None for suffix in row.suffixes}
ORDER = (".safetensors", ".pth", ".pt", ".npz", ".orbax")


def write_checkpoint(arrays: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write arrays as a checkpoint, whole or not at all.

    Args:
        arrays: NumPy's, by name; the names' order is kept in every format but Orbax's. For
            `.orbax` also an `nnx.State`, written as `ocp.StandardCheckpointer().save` does, so that
            `restore(path, nnx.state(model))` takes it back.
        path: ends in `.safetensors`, in `.pth` or `.pt` for a file that
            `torch.load(weights_only=True)` reads as an `OrderedDict` of tensors, in `.npz`, or in
            `.orbax` for a folder that Orbax restores, arrays by name as nested dicts.

    Raises: ValueError, before anything is written, if the suffix is another, if `arrays` is empty,
        or if a name or an array cannot be in such a file. CheckpointError if the file system
        refuses; a file that was at `path` is then as it was.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path (a {type(path).__name__}) must be the path of a file to write")
    suffix = PurePath(path).suffix.lower()
    if suffix not in ROWS:
        raise ValueError(f"path (={os.fspath(path)}) must end in {', '.join(ORDER)}")
    row = ROWS[suffix]
    _check_mapping(arrays, suffix, row)
    if not is_state(arrays):
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


def _check_mapping(arrays: object, suffix: str, format: Format) -> None:
    kind = type(arrays).__name__
    if is_state(arrays) and format.write is not write_orbax:
        raise ValueError(
            f"arrays (a {kind}) can be in an .orbax folder only: for {suffix} give "
            "`fb.to_torch(model)`, the model's arrays by PyTorch's names"
        )
    if not isinstance(arrays, Mapping):
        raise ValueError(
            f"arrays (a {kind}) must be NumPy arrays by name, such as `fb.to_torch(model)` gives"
        )
    if not arrays:
        raise ValueError("arrays (={}) must hold at least one array")


def _check_arrays(arrays: Mapping[str, Any], suffix: str, format: Format) -> None:
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
