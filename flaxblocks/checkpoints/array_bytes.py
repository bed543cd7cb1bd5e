"""Conversion of byte order between files, arrays and the machine."""

import sys

import numpy as np

__all__ = ["byteswapped", "little_endian_bytes"]


def byteswapped(array: np.ndarray) -> np.ndarray:
    """A copy with the bytes of every real number reversed; a complex number consists of two.

    Args:
        array: any dtype and shape, including the dtypes of ml_dtypes, which NumPy cannot swap.
    """
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    words = array.flatten().view(np.dtype(f"u{width}"))
    return words.byteswap(inplace=True).view(array.dtype).reshape(array.shape)


def little_endian_bytes(array: np.ndarray) -> memoryview:
    """The little-endian bytes of an array in row-major order, copied only if necessary."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if sys.byteorder == "big":
        array = byteswapped(array)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
