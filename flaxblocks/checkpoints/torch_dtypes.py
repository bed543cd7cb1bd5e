"""The dtypes that PyTorch, NumPy (with ml_dtypes) and safetensors share, one row each.

A PyTorch file specifies a dtype by the class of the storage (`torch.FloatStorage`); newer dtypes
are saved as an untyped storage and the dtype itself (`torch.uint16`).
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "DtypeRow", "row_of"]


@dataclass(frozen=True, slots=True)
class DtypeRow:
    """One dtype under its four names.

    Attributes:
        torch: its attribute of `torch`, such as `float32`.
        numpy: the NumPy dtype, in native byte order.
        storage: the name of its typed storage class in `torch`; None if torch has none.
        safetensors: its code in a safetensors header; None if the format has none.
    """

    torch: str
    numpy: np.dtype
    storage: str | None
    safetensors: str | None

    @property
    def is_of_ml_dtypes(self) -> bool:
        """Whether NumPy has the dtype only through ml_dtypes, so `tensor.numpy()` refuses it."""
        return self.numpy.type.__module__.startswith("ml_dtypes")


DTYPES = (
    DtypeRow("float64", np.dtype(np.float64), "DoubleStorage", "F64"),
    DtypeRow("float32", np.dtype(np.float32), "FloatStorage", "F32"),
    DtypeRow("float16", np.dtype(np.float16), "HalfStorage", "F16"),
    DtypeRow("bfloat16", np.dtype(ml_dtypes.bfloat16), "BFloat16Storage", "BF16"),
    DtypeRow("complex128", np.dtype(np.complex128), "ComplexDoubleStorage", None),
    DtypeRow("complex64", np.dtype(np.complex64), "ComplexFloatStorage", "C64"),
    DtypeRow("int64", np.dtype(np.int64), "LongStorage", "I64"),
    DtypeRow("int32", np.dtype(np.int32), "IntStorage", "I32"),
    DtypeRow("int16", np.dtype(np.int16), "ShortStorage", "I16"),
    DtypeRow("int8", np.dtype(np.int8), "CharStorage", "I8"),
    DtypeRow("uint64", np.dtype(np.uint64), None, "U64"),
    DtypeRow("uint32", np.dtype(np.uint32), None, "U32"),
    DtypeRow("uint16", np.dtype(np.uint16), None, "U16"),
    DtypeRow("uint8", np.dtype(np.uint8), "ByteStorage", "U8"),
    DtypeRow("bool", np.dtype(np.bool_), "BoolStorage", "BOOL"),
    DtypeRow("float8_e4m3fn", np.dtype(ml_dtypes.float8_e4m3fn), None, "F8_E4M3"),
    DtypeRow("float8_e5m2", np.dtype(ml_dtypes.float8_e5m2), None, "F8_E5M2"),
    DtypeRow("float8_e4m3fnuz", np.dtype(ml_dtypes.float8_e4m3fnuz), None, "F8_E4M3FNUZ"),
    DtypeRow("float8_e5m2fnuz", np.dtype(ml_dtypes.float8_e5m2fnuz), None, "F8_E5M2FNUZ"),
    DtypeRow("float8_e8m0fnu", np.dtype(ml_dtypes.float8_e8m0fnu), None, "F8_E8M0"),
)

_BY_NUMPY = {row.numpy: row for row in DTYPES}


def row_of(dtype: np.dtype) -> DtypeRow | None:
    """The row of a NumPy dtype in any byte order, or None if PyTorch has no such dtype."""
    return _BY_NUMPY.get(dtype.newbyteorder("=") if dtype.kind in "fciu" else dtype)
