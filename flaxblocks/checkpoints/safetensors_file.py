"""Safetensors files: eight bytes of header length, a JSON header, then the tensors' bytes.

The `safetensors` library validates a file. It can neither return arrays without copying them nor
keep the order of names (it sorts them). So the arrays are views made from the validated header, and
the writer lists the names in their own order, which the reader keeps. Tensors with larger elements
come first in the file, as in files of the library, so that every tensor is aligned.
"""

import json
import mmap
import os
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from flaxblocks.checkpoints.array_bytes import little_endian_bytes
from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.torch_dtypes import DTYPES, row_of
from flaxblocks.checkpoints.torch_tensor import Source, Storage, Tensor
from flaxblocks.checkpoints.window import Window

__all__ = ["read_safetensors", "write_safetensors"]

LARGEST_HEADER = 16 * 2**20  # some 100,000 tensors
ALIGNMENT = 8

_BY_CODE = {row.safetensors: row.numpy for row in DTYPES if row.safetensors is not None}


def read_safetensors(
    path: str | os.PathLike[str], data: mmap.mmap
) -> tuple[dict[str, Tensor], Source]:
    """Read the header.

    Args:
        path: path of the file.
        data: the same file, memory-mapped.

    Returns: descriptions of the tensors in the header's order, and where their bytes are.
    Raises: CheckpointError if the library refuses the file, if it holds no tensors, or if NumPy
        lacks a dtype.
    """
    length = int.from_bytes(data[:8], "little")
    header = _header(data, length)
    _validate(path)
    tensors: dict[str, Tensor] = {}
    windows: dict[str, Window] = {}
    for name, entry in header.items():
        match entry:
            case {"dtype": str(code), "shape": list(shape), "data_offsets": [int(begin), int(end)]}:
                pass
            case _:
                raise CheckpointError(f"lacks dtype, shape or offsets of tensor {quoted(name)}")
        dtype = _BY_CODE.get(code)
        if dtype is None:
            raise CheckpointError(f"holds a tensor {quoted(name)} of dtype {code} unknown to NumPy")
        tensors[name] = Tensor(Storage(name, dtype, 0, end - begin), dtype, 0, tuple(shape))
        windows[name] = Window(data, 8 + length + begin, end - begin)
    if not tensors:
        raise CheckpointError("is a safetensors file without tensors")
    return tensors, Source(len(data), windows)


def _header(data: mmap.mmap, length: int) -> dict[str, object]:
    """The JSON header, without its metadata."""
    if length > LARGEST_HEADER:
        raise CheckpointError(f"has a safetensors header of {length} bytes, which is too long")
    if 8 + length > len(data):
        raise CheckpointError("is truncated: its safetensors header ends beyond the file")
    try:
        header = json.loads(data[8 : 8 + length].decode())
    except (ValueError, RecursionError):
        raise CheckpointError("has a safetensors header that is damaged") from None
    header.pop("__metadata__", None)
    return header


def _validate(path: str | os.PathLike[str]) -> None:
    """Let the library check the types in the header, and that the tensors fill the file exactly."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np"):
            pass
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"is a damaged safetensors file: {quoted(str(error), 200)}") from None


def write_safetensors(arrays: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Write arrays whose dtypes and names have been checked, one at a time."""
    by_size = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    offsets: dict[str, tuple[int, int]] = {}
    end = 0
    for name in by_size:
        offsets[name] = (end, end + arrays[name].nbytes)
        end += arrays[name].nbytes
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for name, array in arrays.items():
        row = row_of(array.dtype)
        assert row is not None, "the caller has checked the dtypes"
        header[name] = {
            "dtype": row.safetensors,
            "shape": list(array.shape),
            "data_offsets": list(offsets[name]),
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in by_size:
        file.write(little_endian_bytes(arrays[name]))
