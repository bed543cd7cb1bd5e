"""Batch counts, `num_batches_tracked`, as PyTorch reads them.

PyTorch copies whatever a state dict holds into an int64 scalar. Averaging whole state dicts by hand
leaves fractions, which PyTorch accepts; so they are accepted here.
"""

from collections.abc import Mapping

import numpy as np

from flaxblocks.checkpoints.torch_dtypes import row_of

__all__ = ["COUNT", "clipped", "read_counts"]

COUNT = "num_batches_tracked"


def read_counts(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict with its counts as PyTorch reads them.

    A count of shape (1,) becomes a scalar. A whole number keeps its dtype. A fraction is truncated
    to int64, and a number beyond int64 becomes what the cast on this machine gives. A value that
    PyTorch does not accept as a count is unchanged.
    """
    return {
        key: _read(array) if key.endswith(COUNT) and _is_real(array) else array
        for key, array in arrays.items()
    }


def _is_real(count: np.ndarray) -> bool:
    """Whether a count is one number of a dtype of PyTorch and not complex.

    Of a complex one PyTorch takes the real part and warns.
    """
    known = row_of(count.dtype) is not None and count.dtype.kind != "c"
    return known and count.shape in ((), (1,))


def _read(count: np.ndarray) -> np.ndarray:
    scalar = count.reshape(())
    # For values that int64 cannot hold, the casts of ml_dtypes differ from PyTorch's.
    wide = scalar if scalar.dtype.kind in "biu" else scalar.astype(np.float64)
    with np.errstate(invalid="ignore"):
        whole = wide.astype(np.int64)
    return scalar if whole == wide else whole


def clipped(count: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A count, clipped to the range of the integer type `dtype`."""
    limits = np.iinfo(dtype)
    return np.asarray(count.astype(np.int64).clip(limits.min, limits.max))
