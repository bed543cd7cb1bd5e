"""The tar archives that PyTorch wrote before version 0.1.10: four members.

    sys_info   a pickle that is not needed
    storages   their number; for each a pickle (key, place, type), a count of elements and the
               elements; then a pickle of the storages that are parts of others
    tensors    their number; for each a pickle (key, key of the storage, type), then its sizes,
               strides and offset
    pickle     the object, which refers to its tensors by key

All numbers are little-endian, on every machine.
"""

import mmap
import sys

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.torch_dtypes import DTYPES
from flaxblocks.checkpoints.torch_names import Constructor, StorageType
from flaxblocks.checkpoints.torch_pickle import unpickle
from flaxblocks.checkpoints.torch_tensor import MOST_DIMENSIONS, Source, Storage, Tensor
from flaxblocks.checkpoints.window import Window

__all__ = ["read_tar"]

BLOCK = 512
MOST_MEMBERS = 1000
_TENSOR_TYPES = {
    f"torch.{place}{row.storage.removesuffix('Storage')}Tensor"
    for row in DTYPES
    if row.storage is not None
    for place in ("", "cuda.")
}


def read_tar(data: mmap.mmap) -> tuple[object, Source]:
    """Read the object of the archive and find its storages.

    Returns: the pickled object, with a `Tensor` in place of each tensor, and where their bytes are.
    Raises: CheckpointError if the archive is damaged or torch did not write it.
    """
    members = _members(data)
    if not {"storages", "tensors", "pickle"} <= set(members):
        raise CheckpointError("is a tar archive that PyTorch did not write: unpack it first")
    storages, windows = _storages(data, members["storages"])
    tensors = _tensors(data, members["tensors"], storages)
    start, size = members["pickle"]
    value, _ = unpickle(data, start, start + size, lambda named: _meant(named, tensors))
    return value, Source(len(data), windows, swapped=sys.byteorder != "little")


def _members(data: mmap.mmap) -> dict[str, tuple[int, int]]:
    """First byte and length of every file in the archive, by name."""
    members: dict[str, tuple[int, int]] = {}
    position = 0
    for _ in range(MOST_MEMBERS):
        header = data[position : position + BLOCK]
        if len(header) < BLOCK or not any(header):
            break
        try:
            size = int(header[124:136].strip(b"\0 ") or b"0", 8)
        except ValueError:
            size = -1
        if not 0 <= size <= len(data) - position - BLOCK:
            raise CheckpointError("is a tar archive that is truncated or damaged")
        if header[156:157] in (b"0", b"\0"):  # a file, not metadata or a folder
            name = header[:100].partition(b"\0")[0].decode("latin1").removeprefix("./")
            members[name] = position + BLOCK, size
        position += BLOCK + -(-size // BLOCK) * BLOCK
    return members


class _Reader:
    """A member of the archive, read in sequence."""

    def __init__(self, data: mmap.mmap, start: int, size: int) -> None:
        self.data, self.position, self.end = data, start, start + size

    def object(self) -> object:
        value, self.position = unpickle(self.data, self.position, self.end, _nothing)
        return value

    def skip(self, count: int) -> int:
        """Skip `count` bytes and return the position of the first of them."""
        start, self.position = self.position, self.position + count
        if count < 0 or self.position > self.end:
            raise CheckpointError("is truncated or damaged: a member of the archive is cut short")
        return start

    def number(self, width: int = 8) -> int:
        start = self.skip(width)
        return int.from_bytes(self.data[start : start + width], "little", signed=True)

    def count(self) -> int:
        count = self.object()
        if type(count) is not int or count < 0:
            raise _unknown()
        return count


def _storages(
    data: mmap.mmap, member: tuple[int, int]
) -> tuple[dict[int, Storage], dict[str, Window]]:
    reader = _Reader(data, *member)
    storages: dict[int, Storage] = {}
    windows: dict[str, Window] = {}
    for _ in range(reader.count()):
        match reader.object():
            case (int() as key, _, StorageType(dtype=dtype)) if abs(key) < 2**63:
                size = reader.number() * dtype.itemsize
                windows[str(key)] = Window(data, reader.skip(size), size)
                storages[key] = Storage(str(key), dtype, 0, size)
            case _:
                raise _unknown()
    parts = reader.object()
    for part in parts if isinstance(parts, list) else []:
        match part:
            case (int() as key, int() as root, int() as offset, int() as count) if abs(key) < 2**63:
                whole = storages.get(root)
                if whole is None or min(offset, count) < 0:
                    raise _unknown()
                width = whole.dtype.itemsize
                storages[key] = Storage(
                    whole.key, whole.dtype, whole.start + offset * width, count * width
                )
            case _:
                raise _unknown()
    return storages, windows


def _tensors(
    data: mmap.mmap, member: tuple[int, int], storages: dict[int, Storage]
) -> dict[int, Tensor]:
    reader = _Reader(data, *member)
    tensors: dict[int, Tensor] = {}
    for _ in range(reader.count()):
        match reader.object():
            case (int() as key, int() as root, Constructor(name=kind)) if kind in _TENSOR_TYPES:
                if abs(key) >= 2**63:
                    raise _unknown()
                dimensions = reader.number(4)
                reader.skip(4)
                if root not in storages or not 0 <= dimensions <= MOST_DIMENSIONS:
                    raise _unknown()
                sizes = tuple(reader.number() for _ in range(dimensions))
                strides = tuple(reader.number() for _ in range(dimensions))
                storage = storages[root]
                tensors[key] = Tensor(storage, storage.dtype, reader.number(), sizes, strides)
            case _:
                raise _unknown()
    return tensors


def _meant(named: object, tensors: dict[int, Tensor]) -> object:
    """The tensor with a key, or the class in `(class, file, program)` of a whole pickled model."""
    match named:
        case (Constructor() as made, *_):
            return made
        case str() if named.isdecimal() and len(named) < 20:
            named = int(named)
    if type(named) is not int or named not in tensors:
        raise CheckpointError("refers to a tensor that the file does not hold")
    return tensors[named]


def _nothing(_: object) -> object:
    raise _unknown()


def _unknown() -> CheckpointError:
    return CheckpointError("is a tar archive that is damaged, or not written by PyTorch")
