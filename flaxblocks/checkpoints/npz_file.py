"""NumPy's `.npz` archives: one `.npy` record per array. Arrays of Python objects are refused."""

import ast
import re
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.numpy_array import NumpyArray, dtype_of_code
from flaxblocks.checkpoints.opened import Opened, Saved
from flaxblocks.checkpoints.torch_tensor import Source
from flaxblocks.checkpoints.window import Place, Window
from flaxblocks.checkpoints.zip_records import records_of

__all__ = ["read_npz", "write_npz"]

SUFFIX = ".npy"
LONGEST_HEADER = 10_000  # NumPy's own limit
MAGIC = b"\x93NUMPY"
# No valid header holds an escape or a number followed by letters, and Python warns about both.
_WARNED_OF = re.compile(r"\\|(?<!\w)\.?\d[\d.]*[^\W\d]")


def read_npz(opened: Opened) -> Saved:
    """Read descriptions of the arrays, by name.

    Raises: CheckpointError naming the first array that holds no numbers or is damaged.
    """
    arrays: dict[object, object] = {}
    for name, place in records_of(opened.file, opened.data).items():
        try:
            arrays[name.removesuffix(SUFFIX)] = _described(place)
        except CheckpointError as error:
            raise CheckpointError(f"holds an array {quoted(name)} that {error}") from None
    return Saved(arrays, Source(len(opened.data), {}))


def _described(place: Place) -> NumpyArray:
    window = place.opened()
    start = window.start
    head = window.buffer[start : start + min(window.size, 12)]
    if not head.startswith(MAGIC) or len(head) < 12:
        raise CheckpointError("is not in NumPy's format")
    width = 2 if head[6] == 1 else 4  # bytes of the header's length, by the version
    length = int.from_bytes(head[8 : 8 + width], "little")
    skipped = 8 + width + length
    if length > LONGEST_HEADER or skipped > window.size:
        raise CheckpointError("has a header that is cut short or too long")
    code, fortran, shape = _header(window.buffer[start + 8 + width : start + skipped])
    dtype = dtype_of_code(code)
    if dtype is None:
        raise CheckpointError(f"has the dtype {quoted(code)}, which holds no numbers")
    array = NumpyArray(dtype, shape, Window(window.buffer, start + skipped, window.size - skipped))
    array.fortran = fortran
    return array


def _header(text: bytes) -> tuple[object, bool, tuple]:
    """The three values of `{"descr": "<f4", "fortran_order": False, "shape": (3, 4)}`."""
    literal = text.decode("latin1").strip()
    try:
        header = None if _WARNED_OF.search(literal) else ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        header = None
    match header:
        case {"descr": code, "fortran_order": bool() as fortran, "shape": tuple() as shape}:
            return code, fortran, shape
    raise CheckpointError("has a header that is damaged")


def write_npz(arrays: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Write arrays as `np.savez` does, one at a time; names and dtypes have been checked."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            record = zipfile.ZipInfo(name + SUFFIX)
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            record.file_size = native.nbytes
            with archive.open(record, "w", force_zip64=True) as out:
                np.lib.format.write_array(out, native, allow_pickle=False)
