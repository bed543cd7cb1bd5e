"""Replacements for torch's functions that rebuild tensors; they return `Tensor` descriptions.

Each takes the tuple of arguments and returns None for arguments that torch never writes.
"""

from typing import Any

import numpy as np

from flaxblocks.checkpoints.constructor import Builder, Constructor
from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.torch_tensor import MOST_DIMENSIONS, Storage, Tensor

__all__ = ["REBUILDERS"]


def _tensor_v1(arguments: tuple) -> Tensor | None:
    match arguments:
        case (Storage() as storage, offset, sizes, strides):
            return _tensor(storage, storage.dtype, offset, sizes, strides)
    return None


def _tensor_v2(arguments: tuple) -> Tensor | None:
    match arguments:
        case (Storage() as storage, offset, sizes, strides, _, _, *metadata) if len(metadata) < 2:
            return _tensor(storage, storage.dtype, offset, sizes, strides, *metadata)
    return None


def _tensor_v3(arguments: tuple) -> Tensor | None:
    match arguments:
        case (Storage() as storage, offset, sizes, strides, _, _, np.dtype() as dtype, *metadata):
            if len(metadata) < 2:
                return _tensor(storage, dtype, offset, sizes, strides, *metadata)
    return None


def _tensor(
    storage: Storage,
    dtype: np.dtype,
    offset: Any,
    sizes: object,
    strides: object,
    metadata: object = None,
) -> Tensor | None:
    if not (isinstance(sizes, tuple | list) and isinstance(strides, tuple | list)):
        return None
    if max(len(sizes), len(strides)) > MOST_DIMENSIONS:  # before the loop over all of them
        return None
    if any(type(number) is not int for number in (offset, *sizes, *strides)):
        return None
    lazy = metadata if isinstance(metadata, dict) else {}
    conjugated, negated = lazy.get("conj") is True, lazy.get("neg") is True
    return Tensor(storage, dtype, offset, tuple(sizes), tuple(strides), conjugated, negated)


def _parameter(arguments: tuple) -> Tensor | None:
    """The data of `_rebuild_parameter(data, requires_grad, ...)` and `Parameter(data, ...)`."""
    return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None


def _tensor_with_attributes(arguments: tuple) -> object:
    """`rebuild(*arguments)` for `_rebuild_from_type_v2(rebuild, type, arguments, state)`."""
    match arguments:
        case (Constructor(name=name) as rebuild, Constructor(), tuple() as inner, _):
            # Not this function itself: each level of nesting would be a level of recursion.
            if name.startswith("torch._utils."):
                return rebuild(inner)
            if not name.startswith("torch."):
                raise CheckpointError(
                    f"holds a tensor that only `{quoted(name)[1:-1]}` can make: refused, nothing "
                    "was run"
                )
    return None


def _tensor_from_device(arguments: tuple) -> Tensor | None:
    """The data of `_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)`."""
    match arguments:
        case (Tensor() as data, np.dtype() as dtype, _, _) if data.dtype == dtype:
            return data
    return None


REBUILDERS: dict[str, dict[str, Builder]] = {
    "torch._utils": {
        "_rebuild_tensor": _tensor_v1,
        "_rebuild_tensor_v2": _tensor_v2,
        "_rebuild_tensor_v3": _tensor_v3,
        "_rebuild_parameter": _parameter,
        "_rebuild_parameter_with_state": _parameter,
        "_rebuild_device_tensor_from_cpu_tensor": _tensor_from_device,
    },
    "torch._tensor": {"_rebuild_from_type_v2": _tensor_with_attributes},
    "torch.nn.parameter": {"Parameter": _parameter, "Buffer": _parameter},
    "torch.autograd.variable": {"Variable": _parameter},
}
