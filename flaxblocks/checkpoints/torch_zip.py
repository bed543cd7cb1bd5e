"""The zip archives that `torch.save` writes: a pickle, and one record per storage.

    archive/data.pkl    the pickled object, which refers to its storages by key
    archive/byteorder   `little` or `big`; absent means little
    archive/data/<key>  the bytes of one storage

`torch.save` does not compress; compressed archives, which come from repacking, are read too.
"""

import sys
from collections.abc import Mapping

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.torch_names import StorageType
from flaxblocks.checkpoints.torch_pickle import unpickle
from flaxblocks.checkpoints.torch_tensor import Source, Storage
from flaxblocks.checkpoints.window import Place, Window

__all__ = ["read_records", "root_of"]

PICKLE = "data.pkl"


def root_of(names: Mapping[str, object]) -> str | None:
    """The part before `data.pkl` in the names of records, such as `archive/`, or None."""
    found = [name for name in names if name == PICKLE or name.endswith("/" + PICKLE)]
    own = [name for name in found if not name.startswith("__MACOSX/")]
    first = min(own, key=lambda name: name.count("/"), default=None)
    return None if first is None else first.removesuffix(PICKLE)


def read_records(records: Mapping[str, Place], root: str, size: int) -> tuple[object, Source]:
    """Read the pickle of the archive and find its storages.

    Args:
        records: records by name.
        root: the part before `data.pkl`, as `root_of` returns it.
        size: size of the archive in bytes.

    Returns: the pickled object, with a `Tensor` in place of each tensor, and where their bytes are.
    Raises: CheckpointError if the archive is damaged or holds a program.
    """
    if f"{root}constants.pkl" in records:
        raise CheckpointError(
            "is a TorchScript archive, which holds a program; save the model's `state_dict()`"
        )
    program = records[root + PICKLE].opened()
    value, _ = unpickle(program.buffer, program.start, program.start + program.size, _storage)
    swapped = _byteorder(records.get(f"{root}byteorder")) != sys.byteorder
    prefix = f"{root}data/"
    storages = {
        name.removeprefix(prefix): place
        for name, place in records.items()
        if name.startswith(prefix)
    }
    return value, Source(size, storages, swapped)


def _byteorder(place: Place | None) -> str:
    if place is None:
        return "little"
    window: Window = place.opened()
    word = window.buffer[window.start : window.start + min(window.size, 16)]
    if word.strip() not in (b"little", b"big"):
        raise CheckpointError(f"has the byte order {quoted(word)}, neither little nor big")
    return word.strip().decode()


def _storage(persistent_id: object) -> Storage:
    """The storage to which `("storage", type, key, location, number of elements)` refers."""
    match persistent_id:
        case ("storage", StorageType(dtype=dtype), str() as key, _, int() as count) if count >= 0:
            return Storage(key, dtype, 0, count * dtype.itemsize)
    raise CheckpointError("refers to a storage in an unknown way")
