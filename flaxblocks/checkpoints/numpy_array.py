"""NumPy arrays as a pickle describes them: dtype, shape, order and a run of bytes.

`np.ndarray.__reduce__` writes `_reconstruct(ndarray, (0,), b"b")` followed by the state `(version,
shape, dtype, is_fortran, bytes)`; protocol 5 writes `_frombuffer(bytes, dtype, shape, order)`; a
NumPy number is `scalar(dtype, bytes)`. Protocol 2 writes the bytes as text in Latin-1. Nothing is
copied until the array itself is requested.
"""

import math
import re

import ml_dtypes
import numpy as np

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.torch_dtypes import row_of
from flaxblocks.checkpoints.window import Text, Window

__all__ = ["Latin1", "NumpyArray", "NumpyDtype", "dtype_of_code", "ndarray_of"]

MOST_DIMENSIONS = 64  # NumPy's own limit
LARGEST_INTEGER = 2**63 - 1
_CODE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|\?)")


class Latin1:
    """Bytes that protocol 2 writes as text."""

    __slots__ = ("window",)

    def __init__(self, text: Text) -> None:
        self.window = text.window


class NumpyDtype:
    """A dtype whose state may still follow; `value` is None for one that holds no numbers."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype | None) -> None:
        self.value = value

    def set_state(self, state: object) -> None:
        """Apply the byte order of the state `(version, byte order, subarray, names, ...)`."""
        match state:
            case (int(), ("<" | ">" | "=" | "|") as order, None, None, *_):
                if self.value is not None and order in "<>" and self.value.kind in "iufc":
                    self.value = self.value.newbyteorder(order)
            case _:
                self.value = None


class NumpyArray:
    """The description of an array, whose state may still follow."""

    __slots__ = ("dtype", "fortran", "payload", "shape")

    def __init__(self, dtype: object = None, shape: object = (), payload: object = None) -> None:
        self.dtype = dtype.value if isinstance(dtype, NumpyDtype) else dtype
        self.shape = shape
        self.fortran = False
        self.payload = payload

    def set_state(self, state: object) -> None:
        """Apply the state `(version, shape, dtype, is_fortran, bytes)`; old ones have no version.

        Raises: CheckpointError for any other state.
        """
        match state:
            case (int(), shape, dtype, fortran, payload):
                pass
            case (shape, dtype, fortran, payload):
                pass
            case _:
                raise CheckpointError("holds a NumPy array with a state that NumPy does not write")
        self.__init__(dtype, shape, payload)
        self.fortran = bool(fortran)

    @property
    def holds_numbers(self) -> bool:
        """Whether its dtype is one that weights can have."""
        return isinstance(self.dtype, np.dtype) and row_of(self.dtype) is not None

    @property
    def nbytes(self) -> int:
        """The size in bytes, from dtype and shape. Raises: CheckpointError if either is invalid."""
        if not isinstance(self.dtype, np.dtype) or not isinstance(self.shape, tuple):
            raise CheckpointError("has no dtype or no shape")
        if len(self.shape) > MOST_DIMENSIONS or any(type(n) is not int for n in self.shape):
            raise CheckpointError(f"has a shape that is not at most {MOST_DIMENSIONS} integers")
        if not all(0 <= n <= LARGEST_INTEGER for n in self.shape):
            raise CheckpointError("has a size that is negative or beyond 64 bits")
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self) -> np.ndarray:
        """The array; a view into the file, unless its bytes are stored in another form.

        Raises: CheckpointError if dtype, shape and bytes do not match.
        """
        wanted, (buffer, start, size) = self.nbytes, _located(self.payload)
        if size != wanted:
            raise CheckpointError(f"has the shape {self.shape} and {size} bytes, not {wanted}")
        try:
            order = "F" if self.fortran else "C"
            return np.ndarray(self.shape, self.dtype, buffer, start, order=order)  # type: ignore[arg-type]
        except ValueError:  # an empty array whose other sizes are beyond what NumPy can count
            raise CheckpointError(f"has the shape {self.shape}, too large for an array") from None


def _located(payload: object) -> tuple[object, int, int]:
    match payload:
        case Window():
            return payload.buffer, payload.start, payload.size
        case Latin1(window=window):
            raw = bytes(window.buffer[window.start : window.start + window.size])
            payload = _encoded(raw)
        case str():  # bytes of Python 2 that happened to be valid text
            payload = payload.encode()
    if not isinstance(payload, bytes):
        raise CheckpointError("has no bytes")
    return payload, 0, len(payload)


def _encoded(raw: bytes) -> bytes:
    try:
        return raw.decode().encode("latin1")
    except UnicodeError:
        raise CheckpointError("has bytes written as text that is damaged") from None


def dtype_of_code(code: object) -> np.dtype | None:
    """The dtype of a code such as `"<f4"`; None if it is unknown or holds no numbers."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        return None
    try:
        return np.dtype(code)
    except TypeError:
        return None


def dtype_of_name(name: str) -> np.dtype | None:
    """The dtype with a name such as `ml_dtypes.bfloat16`; None for any other name."""
    module, _, attribute = name.partition(".")
    known = module == "ml_dtypes" and attribute in ("bfloat16", "float8_e4m3fn", "float8_e5m2")
    return np.dtype(getattr(ml_dtypes, attribute)) if known else None


def ndarray_of(buffer: object, dtype: object, shape: object, order: object) -> NumpyArray:
    """The array for the arguments that protocol 5 writes."""
    array = NumpyArray(dtype, shape, buffer)
    array.fortran = order == "F"
    return array
