"""Batch counts, `num_batches_tracked`, as PyTorch reads them.

PyTorch copies whatever a state dict holds into an int64 scalar. A home-made average over a whole
state dict leaves fractions, and PyTorch takes them; so are they taken here.
"""

from collections.abc import Mapping

import numpy as np

from flaxblocks.checkpoints.torch_dtypes import row_of

__all__ = ["COUNT", "clipped", "read_counts"]

COUNT = "num_batches_tracked"


def read_counts(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict with its counts as PyTorch reads them.

    A count of shape (1,) becomes a scalar. A whole number keeps its dtype; a fraction loses what is
    behind the point, and what int64 has no room for becomes what this machine's cast makes of it,
    both as int64. What PyTorch takes for no count is left as it is.
    """
    return {
        key: _read(array) if key.endswith(COUNT) and _is_real(array) else array
        for key, array in arrays.items()
    }


def _is_real(count: np.ndarray) -> bool:
    """A number of PyTorch's, and not complex: of such a one it takes the real part and warns."""
    known = row_of(count.dtype) is not None and count.dtype.kind != "c"
    return known and count.shape in ((), (1,))


def _read(count: np.ndarray) -> np.ndarray:
    scalar = count.reshape(())
    # The casts to int64 of ml_dtypes differ from PyTorch's where there is no such integer.
    wide = scalar if scalar.dtype.kind in "biu" else scalar.astype(np.float64)
    with np.errstate(invalid="ignore"):
        whole = wide.astype(np.int64)
    return scalar if whole == wide else whole


def clipped(count: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A count within the range of `dtype`, a model's integers."""
    limits = np.iinfo(dtype)
    return np.asarray(count.astype(np.int64).clip(limits.min, limits.max))
