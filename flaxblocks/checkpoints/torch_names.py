"""The names that a checkpoint's pickle may refer to, and what each of them stands for here.

A name is never looked up in Python. Every admitted name is in the tables of this file, as the dtype
it means or as a `Constructor` whose builder checks its arguments and returns plain data: a `Tensor`
description, a dict, a tuple, or an `Inert` value that has no content at all. Every other name is
refused, so no code of a file's choosing can run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.torch_dtypes import DTYPES
from flaxblocks.checkpoints.torch_tensor import MOST_DIMENSIONS, Storage, Tensor

__all__ = ["Constructor", "Inert", "StorageType", "as_key", "resolve"]

Builder = Callable[[tuple], object]


class Inert:
    """A value the reader has no use for, such as an option: its type's name and no more."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class such as `torch.FloatStorage`; an untyped one counts bytes, as uint8 does."""

    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Constructor:
    """An admitted callable: its name in the file, and our function of its positional arguments."""

    name: str
    build: Builder

    def __call__(self, arguments: object) -> object:
        """The value, or a CheckpointError if the arguments are not such as torch writes."""
        value = self.build(arguments) if type(arguments) is tuple else None
        if value is None:
            raise CheckpointError(f"calls `{self.name}` with arguments that it does not take")
        return value


def resolve(module: str, name: str) -> object:
    """What a name in the file stands for.

    Returns: a dtype, a `StorageType` or a `Constructor`.
    Raises: CheckpointError with the name in it, if no checkpoint of weights needs that name.
    """
    module = PYTHON_2_MODULES.get(module, module)
    found = ADMITTED.get((module, name))
    if found is not None:
        return found
    shown = f"`{quoted(f'{module}.{name}')[1:-1]}`"
    if (module, name) in UNSUPPORTED:
        raise CheckpointError(f"holds {UNSUPPORTED[module, name]} ({shown}); none can be read here")
    hint = ""
    if name.rpartition(".")[2][:1].isupper():
        hint = "; if it holds a whole pickled model, save the model's `state_dict()` instead"
    raise CheckpointError(
        f"refers to {shown}, which a checkpoint has no need of: refused, nothing was run{hint}"
    )


def as_key(value: object) -> object:
    """A dict key for a value of the pickle: itself if it is plain, else an `Inert` stand-in.

    Tuples and long numbers are not kept: hashing a nested tuple can take for ever or overflow the
    stack, and numbers can be chosen so that all their hashes collide.
    """
    if type(value) in (str, bytes, bool, type(None)):
        return value
    if type(value) is int and abs(value) < 2**31:
        return value
    return Inert(type(value).__name__)


# Builders. Each returns None for arguments that torch never writes.


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
    if max(len(sizes), len(strides)) > MOST_DIMENSIONS:  # before looking at each of them
        return None
    if any(type(number) is not int for number in (offset, *sizes, *strides)):
        return None
    lazy = metadata if isinstance(metadata, dict) else {}
    conjugated, negated = lazy.get("conj") is True, lazy.get("neg") is True
    return Tensor(storage, dtype, offset, tuple(sizes), tuple(strides), conjugated, negated)


def _parameter(arguments: tuple) -> Tensor | None:
    """`_rebuild_parameter(data, requires_grad, ...)` and `Parameter(data, ...)`: the data."""
    return arguments[0] if arguments and isinstance(arguments[0], Tensor) else None


def _tensor_with_attributes(arguments: tuple) -> object:
    """`_rebuild_from_type_v2(rebuild, type, arguments, state)`: what `rebuild` makes of it."""
    match arguments:
        case (Constructor(name=name) as rebuild, Constructor(), tuple() as inner, _):
            # Not itself: each level of nesting would be a level of recursion.
            if name.startswith("torch._utils."):
                return rebuild(inner)
    return None


def _tensor_from_device(arguments: tuple) -> Tensor | None:
    """`_rebuild_device_tensor_from_cpu_tensor(data, dtype, device, requires_grad)`: the data."""
    match arguments:
        case (Tensor() as data, np.dtype() as dtype, _, _) if data.dtype == dtype:
            return data
    return None


def _ordered_dict(arguments: tuple) -> dict | None:
    """`OrderedDict()`, or Python 2's `OrderedDict([[key, value], ...])`."""
    match arguments:
        case ():
            return {}
        case (list() as pairs,):
            if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
                return None
            items = {as_key(pair[0]): pair[1] for pair in pairs}
            # Used up, so that a file gains no memory by naming one long list many times.
            pairs.clear()
            return items
    return None


def _counter(arguments: tuple) -> dict | None:
    """`Counter({key: count, ...})`: the dict itself, not a copy."""
    match arguments:
        case (dict() as counts,):
            return counts
    return {} if not arguments else None


def _empty_dict(_: tuple) -> dict:
    """A dict whose items, if it has any, the pickle sets afterwards."""
    return {}


def _size(arguments: tuple) -> tuple | None:
    """`torch.Size((...))`: the tuple itself."""
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else None


# The tables.

PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}

BUILDERS: dict[str, dict[str, Builder]] = {
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
    "torch": {"Size": _size},
    "collections": {
        "OrderedDict": _ordered_dict,
        "Counter": _counter,
        "defaultdict": _empty_dict,
    },
    # What Lightning keeps a model's hyperparameters in.
    "pytorch_lightning.utilities.parsing": {"AttributeDict": _empty_dict},
    "lightning_fabric.utilities.data": {"AttributeDict": _empty_dict},
    "lightning.fabric.utilities.data": {"AttributeDict": _empty_dict},
}

PATHS = "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath"

# Values found beside the weights of a training checkpoint; only their type is kept.
INERT: dict[str, str] = {
    "torch": "Tensor device",
    "torch.storage": "TypedStorage",
    "argparse": "Namespace",
    "pathlib": PATHS,
    "pathlib._local": PATHS,  # as Python 3.13 writes them, and no other
    "builtins": (
        "bool bytearray bytes complex dict float frozenset int list object set slice str tuple"
    ),
    "copyreg": "_reconstructor",
    "_codecs": "encode",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
}

QUANTISED = (
    "QInt8Storage QUInt8Storage QInt32Storage QUInt4x2Storage QUInt2x4Storage "
    "qint8 quint8 qint32 quint4x2 quint2x4"
)
NOT_IN_NUMPY = (
    "complex32 ComplexHalfStorage float4_e2m1fn_x2 bits8 bits16 bits1x8 bits2x4 bits4x2 "
    "int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7"
)

UNSUPPORTED: dict[tuple[str, str], str] = {
    ("torch._utils", "_rebuild_qtensor"): "a quantised tensor",
    ("torch._utils", "_rebuild_sparse_tensor"): "a sparse tensor",
    ("torch._utils", "_rebuild_sparse_csr_tensor"): "a sparse tensor",
    ("torch._utils", "_rebuild_nested_tensor"): "a nested tensor",
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): "a meta tensor, which has no data",
    ("torch._utils", "_rebuild_wrapper_subclass"): "a wrapper subclass of a tensor",
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): "a tensor of another device's kind",
    ("torch._utils", "_rebuild_xla_tensor"): "a tensor of another device's kind",
    **{("torch", name): "quantised values" for name in QUANTISED.split()},
    **{("torch", name): "values of a dtype that NumPy lacks" for name in NOT_IN_NUMPY.split()},
}


def _inert(name: str) -> Builder:
    return lambda _: Inert(name)


def _admitted() -> dict[tuple[str, str], object]:
    """The tables above and those of the dtypes, flattened."""
    untyped = StorageType(np.dtype(np.uint8))
    table: dict[tuple[str, str], object] = {
        ("torch.storage", "UntypedStorage"): untyped,
        ("torch.storage", "_UntypedStorage"): untyped,
        ("torch", "UntypedStorage"): untyped,
    }
    for row in DTYPES:
        table["torch", row.torch] = row.numpy
        if row.storage is not None:
            table["torch", row.storage] = StorageType(row.numpy)
            table["torch.cuda", row.storage] = StorageType(row.numpy)
    for module, builders in BUILDERS.items():
        for name, build in builders.items():
            table[module, name] = Constructor(f"{module}.{name}", build)
    for module, names in INERT.items():
        for name in names.split():
            table[module, name] = Constructor(f"{module}.{name}", _inert(f"{module}.{name}"))
    return table


ADMITTED = _admitted()
