"""Values in memory as NumPy arrays; torch tensors are recognised without importing torch."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.torch_dtypes import DTYPES

__all__ = ["values_as_arrays"]


def values_as_arrays(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Convert values to arrays, which share the memory of the values where possible.

    Raises: CheckpointError naming the first value that is not an array.
    """
    return {name: _array(name, value) for name, value in values.items()}


def _array(name: str, value: Any) -> np.ndarray:
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(value, torch.Tensor):
            return _from_tensor(value)
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{name} of the source is a {type(value).__name__} that NumPy cannot hold: {error}"
        ) from error
    if array.dtype == object:
        raise CheckpointError(f"{name} of the source is a {type(value).__name__}, not an array")
    return array


def _from_tensor(tensor: Any) -> np.ndarray:
    """A torch tensor as an array, in the same memory if possible."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    narrow = next((row.numpy for row in DTYPES if row.torch == name and row.is_of_ml_dtypes), None)
    if narrow is None:
        return tensor.numpy()
    words = tensor.contiguous().reshape(-1).view(sys.modules["torch"].uint8).numpy()
    return words.view(narrow).reshape(tuple(tensor.shape))
