"""Writing NumPy arrays to checkpoint files.

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
    """Write arrays to a checkpoint, completely or not at all.

    Args:
        arrays: NumPy arrays by name, whose order every format except Orbax's keeps. For `.orbax`
            also an `nnx.State`, which is written as by `ocp.StandardCheckpointer().save`, so that
            `restore(path, nnx.state(model))` reads it.
        path: the file or folder to write. The suffix selects the format: `.safetensors`; `.pth` or
            `.pt`, a file that `torch.load(weights_only=True)` reads as an `OrderedDict` of tensors;
            `.npz`; or `.orbax`, a folder that Orbax restores, in which dotted names become nested
            dicts.

    Raises: ValueError, before anything is written, if the suffix is not one of these, if `arrays`
        is empty, or if the format cannot hold a name or an array. CheckpointError if the file
        system refuses; an existing file at `path` is then unchanged.
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
            f"arrays (a {kind}) can be written to an .orbax folder only: for {suffix} pass "
            "`fb.to_torch(model)`, the model's arrays under PyTorch's names"
        )
    if not isinstance(arrays, Mapping):
        raise ValueError(
            f"arrays (a {kind}) must map names to NumPy arrays, as `fb.to_torch(model)` does"
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
