"""Tensors as a checkpoint file describes them, and the NumPy views made of them.

A description gives the storage, the position in it, the shape and the strides. Nothing is read or
allocated until `as_arrays` has checked these numbers; it makes each tensor a read-only view into
the memory-mapped file. Strides of 0 and overlapping tensors are legal (`expand`, tied weights) and
cost nothing as views, but a copy of such an array takes the memory of its full shape. So the full
shapes of all arrays in a file together are limited to `8 x file size + 64 MiB`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flaxblocks.checkpoints.array_bytes import byteswapped
from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.numpy_array import NumpyArray
from flaxblocks.checkpoints.window import Place

__all__ = ["MOST_DIMENSIONS", "Elsewhere", "Source", "Storage", "Tensor", "as_arrays"]

MOST_DIMENSIONS = 64  # NumPy's own limit
LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes that tensors view: `size` bytes from byte `start` of the storage `key`."""

    key: str
    dtype: np.dtype
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in a file; `offset` and `strides` count elements of `dtype` within `storage`.

    `strides=None` means row-major.
    """

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    conjugated: bool = False
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes to which descriptions refer.

    Attributes:
        size: total size of the file or files in bytes.
        windows: for each storage key, where its bytes are.
        swapped: whether the storages have the opposite byte order of this machine.
    """

    size: int
    windows: Mapping[str, Place]
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A tensor in another file, such as a shard."""

    tensor: Tensor | NumpyArray
    source: Source


Described = Tensor | NumpyArray | Elsewhere | np.ndarray  # an ndarray: read by another library


def as_arrays(tensors: Mapping[str, Described], source: Source) -> dict[str, np.ndarray]:
    """Turn descriptions into read-only arrays.

    Args:
        tensors: descriptions by name.
        source: the file to which they refer.

    Returns: arrays in the order of `tensors`; views into the file, except if their values must be
        changed (conjugated or negated tensors, foreign byte order) or are stored in another form
        (compressed, or as text).
    Raises: CheckpointError naming the first tensor that exceeds its storage or is otherwise
        invalid.
    """
    budget = 8 * source.size + 64 * 2**20
    arrays: dict[str, np.ndarray] = {}
    for name, described in tensors.items():
        try:
            budget -= _bytes_of(described)
            if budget < 0:
                raise CheckpointError("expands to far more than the file holds")
            arrays[name] = _array(described, source)
        except CheckpointError as error:
            raise CheckpointError(f"holds a tensor {quoted(name)} that {error}") from None
    return arrays


def _bytes_of(described: Described) -> int:
    """The size of the full shape in bytes, after checking the numbers."""
    if isinstance(described, Elsewhere):
        described = described.tensor
    if isinstance(described, np.ndarray):
        return 0
    if isinstance(described, NumpyArray):
        return described.nbytes
    _check_numbers(described)
    return math.prod(described.shape) * described.dtype.itemsize


def _array(described: Described, source: Source) -> np.ndarray:
    if isinstance(described, Elsewhere):
        described, source = described.tensor, described.source
    if isinstance(described, Tensor):
        return _values(_view(described, source), described, source)
    array = described.array() if isinstance(described, NumpyArray) else described.view()
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array.setflags(write=False)
    return array


def _check_numbers(tensor: Tensor) -> None:
    strides = tensor.strides if tensor.strides is not None else tensor.shape
    if len(tensor.shape) != len(strides) or len(strides) > MOST_DIMENSIONS:
        raise CheckpointError(
            f"has {len(tensor.shape)} sizes and {len(strides)} strides; there must be as many of "
            f"each, at most {MOST_DIMENSIONS}"
        )
    numbers = (tensor.offset, *tensor.shape, *strides)
    if min(numbers) < 0 or max(numbers) > LARGEST_INTEGER:
        raise CheckpointError("has a size, stride or offset that is negative or beyond 64 bits")


def _view(tensor: Tensor, source: Source) -> np.ndarray:
    """The tensor as a view into the file, after checking that it lies within its storage."""
    storage, itemsize = tensor.storage, tensor.dtype.itemsize
    if storage.key not in source.windows:
        raise CheckpointError(
            f"needs the storage {quoted(storage.key)}, which the file does not hold"
        )
    window = source.windows[storage.key].opened()
    begin, size = window.start, window.size
    if begin + size > len(window.buffer):
        raise CheckpointError(f"has a storage {quoted(storage.key)} beyond the file's end")
    if storage.start + storage.size > size:
        raise CheckpointError(
            f"needs {storage.start + storage.size} bytes of the storage {quoted(storage.key)}, "
            f"which holds {size}"
        )
    strides = _byte_strides(tensor)
    end = tensor.offset * itemsize
    if 0 not in tensor.shape:
        steps = zip(tensor.shape, strides, strict=True)
        end += itemsize + sum((count - 1) * stride for count, stride in steps)
    if end > storage.size:
        raise CheckpointError(
            f"reaches to byte {end} of the storage {quoted(storage.key)}, which has {storage.size}"
        )
    start = begin + storage.start + tensor.offset * itemsize
    try:
        return np.ndarray(tensor.shape, tensor.dtype, window.buffer, start, strides)
    except ValueError:  # an empty tensor whose other sizes are beyond what NumPy can count
        raise CheckpointError(f"has the shape {tensor.shape}, too large for an array") from None


def _byte_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides in bytes; 0 for an axis along which no step is taken, whatever its stride is."""
    elements = tensor.strides
    if elements is None:
        elements = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
    empty = 0 in tensor.shape
    return tuple(
        0 if empty or count == 1 else stride * tensor.dtype.itemsize
        for count, stride in zip(tensor.shape, elements, strict=True)
    )


def _values(array: np.ndarray, tensor: Tensor, source: Source) -> np.ndarray:
    """The view itself, or a copy if byte order, conjugation or negation change its values."""
    if source.swapped and array.dtype.itemsize > 1:
        array = byteswapped(array)
    if tensor.conjugated or tensor.negated:
        if array.dtype.kind not in "fc":
            raise CheckpointError(f"is marked as conjugated or negated but holds {array.dtype}")
        array = np.conjugate(array) if tensor.conjugated else array
        array = np.negative(array) if tensor.negated else array
        array = np.asarray(array)  # without dimensions, NumPy returns a scalar
    array.setflags(write=False)
    return array
