"""The checksum, shape and dtype of each array, which a checkpoint records."""

import zlib
from typing import Any

import jax
import numpy as np

__all__ = ["checksums", "differences", "shapes"]


def checksums(state: Any) -> dict[str, str]:
    """The checksum of each array of which this process has all parts."""
    sums = {}
    for path, array in jax.tree_util.tree_leaves_with_path(state):
        if not isinstance(array, jax.Array) or array.is_fully_addressable:
            whole = np.asarray(array)
        elif array.is_fully_replicated:
            whole = np.asarray(array.addressable_data(0))
        else:
            continue
        data = np.ascontiguousarray(whole).reshape(-1).view(np.uint8).data
        sums[jax.tree_util.keystr(path)] = f"{zlib.crc32(data):08x}"
    return sums


def shapes(state: Any) -> dict[str, str]:
    """The dtype and shape of each array, such as `float32[3, 8]`."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{a.dtype}{list(a.shape)}" for path, a in leaves}


def differences(saved: dict[str, str] | None, ours: dict[str, str]) -> str:
    """The differences between saved arrays and those to restore, as text; "" if there are none, or
    an older checkpoint has no list (`saved` is None).
    """
    if saved is None or saved == ours:
        return ""
    told = [
        f"{name} is {saved.get(name, 'missing')} in it and {ours.get(name, 'missing')} here"
        for name in sorted({*saved, *ours})
        if saved.get(name) != ours.get(name)
    ]
    return ", ".join(told[:3]) + f" and {len(told) - 3} more" * (len(told) > 3)
