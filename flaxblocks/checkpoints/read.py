"""Checkpoint files to and from NumPy arrays, without torch.

    arrays = read_checkpoint("weights.pth")
    write_checkpoint(arrays, "weights.safetensors")

A `.pth` file is a pickle, and a pickle is a program. Here it runs on a machine that can build plain
data only (`torch_pickle.py`), so a file from a stranger is safe to read: it yields arrays or a
`CheckpointError`. The arrays are read-only views into the mapped file: reading costs no memory of
its own, pages are loaded when they are first looked at, and the file must not be changed in place
while an array of it lives (replacing it, as `write_checkpoint` does, is harmless).
"""

import mmap
import os
import stat
from collections.abc import Mapping
from pathlib import PurePath
from typing import BinaryIO

import numpy as np

from flaxblocks.checkpoints.atomic_file import replacing
from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.formats import LEGACY, SAFETENSORS, recognise
from flaxblocks.checkpoints.safetensors_file import read_safetensors, write_safetensors
from flaxblocks.checkpoints.state_dict import find_state_dict, without_prefixes
from flaxblocks.checkpoints.torch_dtypes import row_of
from flaxblocks.checkpoints.torch_legacy import read_legacy
from flaxblocks.checkpoints.torch_save import write_torch
from flaxblocks.checkpoints.torch_tensor import Source, Tensor, as_arrays
from flaxblocks.checkpoints.torch_zip import read_zip

__all__ = ["CheckpointError", "read_checkpoint", "write_checkpoint"]

WRITERS = {".safetensors": write_safetensors, ".pth": write_torch, ".pt": write_torch}


def read_checkpoint(
    path: str | os.PathLike[str], *, prefer_ema: bool = False
) -> dict[str, np.ndarray]:
    """Read the state dict of a checkpoint.

    The format is told from the content: torch's zip archive, torch's older pickle stream, or
    safetensors. A state dict inside of a training checkpoint is found under `state_dict`,
    `model_state_dict`, `model`, `net`, `module`, `params` or `weights`; averaged weights under
    `state_dict_ema`, `model_ema` or `params_ema`. Everything else in the file is left out.
    `module.` and `_orig_mod.` are taken off the names when all names begin so.

    Args:
        path: the file.
        prefer_ema: whether to take the averaged weights when the file holds both. By default the
            raw weights are taken. A file that holds only one kind gives that kind.

    Returns: read-only arrays by name, in the order of the file, with the file's dtypes; bfloat16
        and the 8-bit floats are those of ml_dtypes.
    Raises: CheckpointError, in one sentence, if the file cannot be read, is damaged, refers to
        code, or holds no state dict.
    """
    try:
        with open(_regular(path), "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            tensors, source = _described(path, file, data, prefer_ema)
        return as_arrays(without_prefixes(tensors), source)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be read: {_reason(error)}") from None


def write_checkpoint(arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Write arrays as a checkpoint, whole or not at all.

    Args:
        arrays: by name. The names' order is kept in every format.
        path: ends in `.safetensors`, or in `.pth` or `.pt` for a file that
            `torch.load(weights_only=True)` reads as an `OrderedDict` of tensors.

    Raises: ValueError, before anything is written, if the suffix is another, if `arrays` is empty,
        or if a name or an array cannot be in such a file. CheckpointError if the file system
        refuses; a file that was at `path` is then as it was.
    """
    suffix = PurePath(path).suffix.lower()
    if suffix not in WRITERS:
        raise ValueError(f"path (={os.fspath(path)}) must end in {', '.join(WRITERS)}")
    _check_arrays(arrays, suffix)
    try:
        _check_possible(path)
        with replacing(path) as file:
            WRITERS[suffix](arrays, file)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{os.fspath(path)} cannot be written: {_reason(error)}") from None


def _described(
    path: str | os.PathLike[str], file: BinaryIO, data: mmap.mmap, prefer_ema: bool
) -> tuple[dict[str, Tensor], Source]:
    kind = recognise(data)
    if kind == SAFETENSORS:
        return read_safetensors(path, data)
    saved, source = read_legacy(data) if kind == LEGACY else read_zip(file, data)
    return find_state_dict(saved, prefer_ema=prefer_ema), source


def _regular(path: str | os.PathLike[str]) -> str:
    """The path, if it is a file that can be mapped; opening a pipe would wait for ever."""
    _check_possible(path)
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError("is a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("is not a regular file")
    if status.st_size == 0:
        raise CheckpointError("is an empty file")
    return os.fspath(path)


def _check_possible(path: str | os.PathLike[str]) -> None:
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise CheckpointError("is not a possible path")


def _check_arrays(arrays: Mapping[str, np.ndarray], suffix: str) -> None:
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
        if row is None or (suffix == ".safetensors" and row.safetensors is None):
            raise ValueError(
                f"arrays[{name!r}] has dtype {array.dtype}, which {suffix} cannot hold"
            )


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
