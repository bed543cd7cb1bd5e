"""The names that the pickle of a checkpoint can refer to, and what each stands for.

A name is never looked up in Python. Every name with a meaning is in the tables of this file and of
`torch_rebuild.py`, as a dtype or as a `Constructor` whose builder checks its arguments and returns
plain data: a `Tensor` or `NumpyArray` description, a dict, a tuple. Names in `refused_names.py` are
refused, and any other name makes an `Inert` placeholder, so a file cannot choose code to run.
"""

from dataclasses import dataclass

import numpy as np

from flaxblocks.checkpoints.constructor import Builder, Constructor, inert
from flaxblocks.checkpoints.inert import Inert
from flaxblocks.checkpoints.numpy_array import (
    Latin1,
    NumpyArray,
    NumpyDtype,
    dtype_of_code,
    dtype_of_name,
    ndarray_of,
)
from flaxblocks.checkpoints.refused_names import refuse_by_name
from flaxblocks.checkpoints.torch_dtypes import DTYPES
from flaxblocks.checkpoints.torch_rebuild import REBUILDERS
from flaxblocks.checkpoints.window import Text, Window

__all__ = ["ADMITTED", "Constructor", "Inert", "StorageType", "as_key", "resolve"]


@dataclass(frozen=True, slots=True)
class StorageType:
    """A storage class such as `torch.FloatStorage`; an untyped storage counts bytes, like uint8."""

    dtype: np.dtype


def resolve(module: str, name: str) -> object:
    """What a name in the file stands for.

    Returns: a dtype, a `StorageType` or a `Constructor`.
    Raises: CheckpointError, naming it, for a name that is refused.
    """
    module = PYTHON_2_MODULES.get(module, module)
    found = ADMITTED.get((module, name))
    if found is not None:
        return found
    refuse_by_name(module, name)
    return inert(f"{module}.{name}")


def as_key(value: object) -> object:
    """A dict key for a value in the pickle: the value if it is plain, else an `Inert` placeholder.

    Tuples and large integers are not kept: hashing a nested tuple can take forever or overflow the
    stack, and integers can be chosen so that all their hashes collide.
    """
    if type(value) in (str, bytes, bool, type(None)):
        return value
    if type(value) is int and abs(value) < 2**31:
        return value
    return Inert(type(value).__name__)


# Builders. Each returns None for arguments that no program writes.


def _ordered_dict(arguments: tuple) -> dict | None:
    """`OrderedDict()`, or Python 2's `OrderedDict([[key, value], ...])`."""
    match arguments:
        case ():
            return {}
        case (list() as pairs,):
            if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
                return None
            items = {as_key(pair[0]): pair[1] for pair in pairs}
            # Emptied, so that a file cannot multiply memory by using one long list many times.
            pairs.clear()
            return items
    return None


def _counter(arguments: tuple) -> dict | None:
    """The dict of `Counter({key: count, ...})`, not a copy."""
    match arguments:
        case (dict() as counts,):
            return counts
    return {} if not arguments else None


def _empty_dict(_: tuple) -> dict:
    """An empty dict, whose items the pickle sets afterwards."""
    return {}


def _size(arguments: tuple) -> tuple | None:
    """The tuple of `torch.Size((...))`."""
    return arguments[0] if len(arguments) == 1 and isinstance(arguments[0], tuple) else None


def _encode(arguments: tuple) -> object:
    """The bytes of `_codecs.encode(text, "latin1")`, the only way to write bytes in protocol 2."""
    match arguments:
        case (Text() as text, "latin1" | "latin-1"):
            return Latin1(text)
        case (str() as text, "latin1" | "latin-1"):
            try:
                return text.encode("latin1")
            except UnicodeEncodeError:
                return None
    return Inert("_codecs.encode")


def _bytes(arguments: tuple) -> object:
    """The content of `bytes()` and `bytearray(bytes)`, as protocols before 5 write them."""
    match arguments:
        case ():
            return b""
        case (bytes() | Window() | Latin1() as content,):
            return content
        case (str() | Text(), _):
            return _encode(arguments)
    return Inert("builtins.bytes")


def _new_object(arguments: tuple) -> object:
    """A placeholder for an object of the class in `copyreg._reconstructor(class, object, None)`."""
    match arguments:
        case (Constructor(name=name), *_):
            return Inert(name)
    return Inert("copyreg._reconstructor")


def _numpy_dtype(arguments: tuple) -> NumpyDtype:
    match arguments:
        case (Constructor(name=name), *_):
            return NumpyDtype(dtype_of_name(name))
        case (code, *_):
            return NumpyDtype(dtype_of_code(code))
    return NumpyDtype(None)


def _reconstruct(_: tuple) -> NumpyArray:
    """An array whose state follows."""
    return NumpyArray()


def _from_buffer(arguments: tuple) -> NumpyArray | None:
    return ndarray_of(*arguments) if len(arguments) == 4 else None


def _scalar(arguments: tuple) -> NumpyArray | None:
    return NumpyArray(*arguments[:1], (), *arguments[1:]) if len(arguments) == 2 else None


def _jax_array(arguments: tuple) -> NumpyArray | None:
    """The array of `_reconstruct_array(function, arguments, state, ...)`, with NumPy's state."""
    match arguments:
        case (Constructor(), tuple(), state, *_):
            array = NumpyArray()
            array.set_state(state)
            return array
    return None


# The tables.

PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_NUMPY = {"_reconstruct": _reconstruct, "scalar": _scalar}

BUILDERS: dict[str, dict[str, Builder]] = {
    **REBUILDERS,
    "torch": {"Size": _size},
    "collections": {
        "OrderedDict": _ordered_dict,
        "Counter": _counter,
        "defaultdict": _empty_dict,
    },
    # Lightning's class for hyperparameters.
    "pytorch_lightning.utilities.parsing": {"AttributeDict": _empty_dict},
    "lightning_fabric.utilities.data": {"AttributeDict": _empty_dict},
    "lightning.fabric.utilities.data": {"AttributeDict": _empty_dict},
    "_codecs": {"encode": _encode},
    "builtins": {"bytes": _bytes, "bytearray": _bytes},
    "copyreg": {"_reconstructor": _new_object},
    "numpy": {"dtype": _numpy_dtype},
    "numpy.core.multiarray": _NUMPY,
    "numpy._core.multiarray": _NUMPY,
    "numpy.core.numeric": {"_frombuffer": _from_buffer},
    "numpy._core.numeric": {"_frombuffer": _from_buffer},
    "jax._src.array": {"_reconstruct_array": _jax_array},
}


def _admitted() -> dict[tuple[str, str], object]:
    """The tables above and that of the dtypes, as one dict by (module, name)."""
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
    return table


ADMITTED = _admitted()
