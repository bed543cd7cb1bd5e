"""The stream that `torch.save` wrote before version 1.6: five pickles, then the storages.

The pickles are a magic number, the version of the protocol, facts about the machine, the object,
and the list of the keys of its storages. The storages follow in the order of that list, each as a
count of elements (8 bytes) and the elements, both little-endian on every machine. Nothing is
aligned, so neither are the arrays, which NumPy permits.

A pickle without the magic number is another program's; its object may hold NumPy arrays.
"""

import sys

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.torch_names import Constructor, StorageType
from flaxblocks.checkpoints.torch_pickle import unpickle
from flaxblocks.checkpoints.torch_tensor import Source, Storage
from flaxblocks.checkpoints.window import Buffer, Window

__all__ = ["read_legacy"]

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


def read_legacy(data: Buffer) -> tuple[object, Source]:
    """Read the object of the stream and find its storages.

    Args:
        data: the memory-mapped file.

    Returns: the pickled object, with a `Tensor` in place of each tensor, and where their bytes are.
    Raises: CheckpointError if the stream is damaged, or of an unknown version.
    """
    end = len(data)
    seen: dict[str, Storage] = {}
    magic, position = unpickle(data, 0, end, _no_storage)
    if magic != MAGIC_NUMBER:
        return magic, Source(end, {})
    version, position = unpickle(data, position, end, _no_storage)
    if version != PROTOCOL_VERSION:
        raise CheckpointError("is a PyTorch checkpoint of an unknown protocol version")
    _, position = unpickle(data, position, end, _no_storage)
    value, position = unpickle(data, position, end, lambda named: _storage(named, seen))
    keys, position = unpickle(data, position, end, _no_storage)
    windows = _windows(keys, seen, data, position)
    return value, Source(end, windows, swapped=sys.byteorder != "little")


def _no_storage(_: object) -> object:
    raise CheckpointError("refers to a storage outside of the pickled object")


def _storage(persistent_id: object, seen: dict[str, Storage]) -> Storage | Constructor:
    """The storage or class that a persistent id refers to.

    Args:
        persistent_id: `("storage", type, key, location, number of elements, view)`, in which `view`
            is None, or `(key, offset, number of elements)` for a part of the storage `key`; or
            `("module", class, file, program)` for a class in a whole pickled model.
        seen: collects the storages that have bytes of their own, by key.
    """
    match persistent_id:
        case ("storage", StorageType(dtype=dtype), str() as key, _, int() as count, view):
            whole = Storage(key, dtype, 0, count * dtype.itemsize)
        case ("module", Constructor() as made, _, _):  # a class, its file and its source code
            return made
        case _:
            raise CheckpointError("refers to a storage in an unknown way")
    match view:
        case None:
            part = whole
        case (_, int() as offset, int() as length) if offset >= 0 and length >= 0:
            part = Storage(key, dtype, offset * dtype.itemsize, length * dtype.itemsize)
        case _:
            raise CheckpointError(f"has a view of the storage {quoted(key)} that is invalid")
    if min(whole.size, whole.size - part.start - part.size) < 0:
        raise CheckpointError(
            f"has a view of the storage {quoted(key)} that reaches beyond it, or a negative size"
        )
    seen.setdefault(key, whole)
    return part


def _windows(
    keys: object, seen: dict[str, Storage], data: Buffer, position: int
) -> dict[str, Window]:
    """First byte and length of every storage, found by walking through the rest of the stream."""
    if not isinstance(keys, list) or any(not isinstance(key, str) for key in keys):
        raise CheckpointError("is damaged: its list of storages is not a list of keys")
    windows: dict[str, Window] = {}
    for key in keys:
        storage = seen.get(key)
        if storage is None or key in windows:
            raise CheckpointError(
                f"lists a storage {quoted(key)} that no tensor uses, or lists it twice"
            )
        start = position + 8
        count = int.from_bytes(data[position:start], "little", signed=True)
        if start > len(data) or count * storage.dtype.itemsize != storage.size:
            raise CheckpointError(
                f"is truncated or damaged: storage {quoted(key)} should have {storage.size} bytes"
            )
        position = start + storage.size
        if position > len(data):
            raise CheckpointError(f"is truncated: storage {quoted(key)} ends beyond the file's end")
        windows[key] = Window(data, start, storage.size)
    return windows
