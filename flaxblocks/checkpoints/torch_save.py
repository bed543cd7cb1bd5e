"""Writing a state dict as `torch.save` does, without torch.

The pickle is like torch's: an `OrderedDict` whose values are calls to
`torch._utils._rebuild_tensor_v2` (or `_v3` for dtypes without a storage class of their own). Every
storage begins at a multiple of 64 bytes, so that `torch.load(mmap=True)` can map it, and every date
is 1980, so that equal arrays give equal files. An array with two names is written as two storages.
"""

import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from flaxblocks.checkpoints.array_bytes import little_endian_bytes
from flaxblocks.checkpoints.module_versions import METADATA, versions_of
from flaxblocks.checkpoints.torch_dtypes import row_of

__all__ = ["write_torch"]

ROOT = "archive"
ALIGNMENT = 64
LOCAL_HEADER_BYTES = 30
ZIP64_EXTRA_BYTES = 20
ZIP64_FROM = 2**30  # bytes of a record; zipfile itself requires it only above 1.9 times as many


def write_torch(arrays: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Write arrays, whose names and dtypes have been checked, one at a time.

    Args:
        arrays: arrays by name, in the order of the state dict.
        file: a seekable file, open for writing at its beginning.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _put(archive, file, "data.pkl", b"".join(_pickled(arrays)))
        _put(archive, file, "byteorder", b"little")
        for index, array in enumerate(arrays.values()):
            _put(archive, file, f"data/{index}", little_endian_bytes(array))
        _put(archive, file, "version", b"3\n")


def _put(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes | memoryview) -> None:
    """Append a record, with padding in the extra field of its header that aligns its content."""
    record = zipfile.ZipInfo(f"{ROOT}/{name}")
    record.file_size = len(content)
    wide = len(content) >= ZIP64_FROM
    start = file.tell() + LOCAL_HEADER_BYTES + len(record.filename) + ZIP64_EXTRA_BYTES * wide + 4
    padding = -start % ALIGNMENT
    record.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    with archive.open(record, "w", force_zip64=wide) as out:
        out.write(content)


def _pickled(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    yield pickle.PROTO + b"\x02"
    yield _call("collections", "OrderedDict")
    yield pickle.MARK
    for index, (name, array) in enumerate(arrays.items()):
        yield _text(name)
        yield from _tensor(array, str(index))
    yield pickle.SETITEMS
    if versions_of(arrays):
        yield from _attribute(METADATA, versions_of(arrays))
    yield pickle.STOP


def _attribute(name: str, versions: Mapping[str, Mapping[str, int]]) -> Iterator[bytes]:
    """Set an attribute of the last `OrderedDict` to an `OrderedDict` of dicts of integers."""
    yield pickle.EMPTY_DICT + _text(name) + _call("collections", "OrderedDict")
    for path, version in versions.items():
        yield _text(path) + pickle.EMPTY_DICT
        for key, number in version.items():
            yield _text(key) + _integer(number) + pickle.SETITEM
        yield pickle.SETITEM
    yield pickle.SETITEM + pickle.BUILD


def _tensor(array: np.ndarray, key: str) -> Iterator[bytes]:
    """`_rebuild_tensor_v2(storage, 0, shape, strides, requires_grad=False, hooks={})`."""
    row = row_of(array.dtype)
    assert row is not None, "the caller has checked the dtypes"
    if row.storage is not None:
        yield _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK
        storage, count = _global("torch", row.storage), array.size
    else:
        yield _global("torch._utils", "_rebuild_tensor_v3") + pickle.MARK
        storage, count = _global("torch.storage", "UntypedStorage"), array.nbytes
    yield pickle.MARK + _text("storage") + storage + _text(key) + _text("cpu") + _integer(count)
    yield pickle.TUPLE + pickle.BINPERSID
    strides = np.empty(array.shape, np.bool_).strides  # row-major, in elements
    yield _integer(0) + _integers(array.shape) + _integers(strides) + pickle.NEWFALSE
    yield _call("collections", "OrderedDict")
    if row.storage is None:
        yield _global("torch", row.torch)
    yield pickle.TUPLE + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _call(module: str, name: str) -> bytes:
    return _global(module, name) + pickle.EMPTY_TUPLE + pickle.REDUCE


def _text(text: str) -> bytes:
    raw = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def _integers(numbers: tuple[int, ...]) -> bytes:
    return pickle.MARK + b"".join(_integer(number) for number in numbers) + pickle.TUPLE


def _integer(number: int) -> bytes:
    if number < 2**31:
        return pickle.BININT + struct.pack("<i", number)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", number)
