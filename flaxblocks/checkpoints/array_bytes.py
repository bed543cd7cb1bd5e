"""Byte order: the files are little-endian or say otherwise, machines and arrays may be either."""

import sys

import numpy as np

__all__ = ["byteswapped", "little_endian_bytes"]


def byteswapped(array: np.ndarray) -> np.ndarray:
    """A copy with the bytes of every real number reversed; a complex number is two of them.

    Args:
        array: of any dtype and shape, the ml_dtypes ones included (NumPy cannot swap those).
    """
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    words = array.flatten().view(np.dtype(f"u{width}"))
    return words.byteswap(inplace=True).view(array.dtype).reshape(array.shape)


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """The bytes of the array's elements in row-major order, copied only where needed."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if sys.byteorder == "big":
        array = byteswapped(array)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
