"""The zip archives that `torch.save` writes: a pickle, and one uncompressed record a storage.

    archive/data.pkl    the pickled object, naming its storages by key
    archive/byteorder   `little` or `big`; absent means little
    archive/data/<key>  the bytes of one storage

The bytes stay where they are and only their positions are taken from the archive; so compressed
records are refused (torch writes none). Checksums are not compared, because torch can be told to
leave them wrong: hold a downloaded file against its SHA-256 instead.
"""

import io
import mmap
import struct
import sys
import zipfile
from typing import BinaryIO

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.torch_names import StorageType
from flaxblocks.checkpoints.torch_pickle import unpickle
from flaxblocks.checkpoints.torch_tensor import Source, Storage

__all__ = ["read_zip"]

LARGEST_DIRECTORY = 16 * 2**20  # some 200,000 records
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field

Window = tuple[int, int]


def read_zip(file: BinaryIO, data: mmap.mmap) -> tuple[object, Source]:
    """Read the archive's pickle and find its storages.

    Args:
        file: the open file.
        data: the same file, mapped.

    Returns: the pickled object, with a `Tensor` in place of each tensor, and where their bytes are.
    Raises: CheckpointError if the archive is damaged or not one of torch's.
    """
    records = _directory(file)
    root = next(iter(records), "").partition("/")[0]
    _check_origin(root, records)
    windows = _windows(records, data)
    start, size = windows[f"{root}/data.pkl"]
    value, _ = unpickle(data, start, start + size, _storage)
    swapped = _byteorder(windows.get(f"{root}/byteorder"), data) != sys.byteorder
    prefix = f"{root}/data/"
    storages = {
        name.removeprefix(prefix): window
        for name, window in windows.items()
        if name.startswith(prefix)
    }
    return value, Source(data, storages, swapped)


class _BoundedFile(io.FileIO):
    """A file that does not allocate whatever number of bytes an archive claims to have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile
        return super().read(size) or b""


def _directory(file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The archive's records by name, in its order."""
    try:
        with (
            _BoundedFile(file.fileno(), closefd=False) as bounded,
            zipfile.ZipFile(bounded) as archive,
        ):
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError):
        raise CheckpointError("is a zip archive that is truncated or damaged") from None
    records = {info.orig_filename: info for info in infos}
    if len(records) < len(infos):
        raise CheckpointError("is a zip archive with two records of the same name")
    return records


def _check_origin(root: str, records: dict[str, zipfile.ZipInfo]) -> None:
    """Refuse the archives of other programs, and torch's archives of programs, by name."""
    if f"{root}/constants.pkl" in records:
        raise CheckpointError(
            "is a TorchScript archive, which holds a program; save the model's `state_dict()`"
        )
    if f"{root}/data.pkl" in records:
        return
    if records and all(name.endswith(".npy") for name in records):
        raise CheckpointError("is a NumPy .npz archive, not a PyTorch checkpoint")
    names = ", ".join(quoted(name, 40) for name in list(records)[:3])
    raise CheckpointError(
        "is a zip archive without a `data.pkl`, so not a PyTorch checkpoint; "
        f"it holds {names or 'nothing'}"
    )


def _windows(records: dict[str, zipfile.ZipInfo], data: mmap.mmap) -> dict[str, Window]:
    """First byte and length of every record's content, which must not overlap."""
    windows: dict[str, Window] = {}
    free = 0
    for name, info in sorted(records.items(), key=lambda record: record[1].header_offset):
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise CheckpointError(f"has a compressed or encrypted record {quoted(name)}")
        header = info.header_offset
        if not free <= header <= len(data) - LOCAL_HEADER.size:
            raise CheckpointError(f"has a record {quoted(name)} that overlaps another or the end")
        signature, name_length, extra_length = LOCAL_HEADER.unpack_from(data, header)
        start = header + LOCAL_HEADER.size + name_length + extra_length
        free = start + info.file_size
        if signature != b"PK\x03\x04" or info.compress_size != info.file_size or free > len(data):
            raise CheckpointError(f"is truncated or damaged: it lacks the record {quoted(name)}")
        windows[name] = start, info.file_size
    return windows


def _byteorder(window: Window | None, data: mmap.mmap) -> str:
    if window is None:
        return "little"
    start, size = window
    word = data[start : start + min(size, 16)]
    if word not in (b"little", b"big"):
        raise CheckpointError(f"has the byte order {quoted(word)}, neither little nor big")
    return word.decode()


def _storage(persistent_id: object) -> Storage:
    """The storage meant by `("storage", type, key, location, number of elements)`."""
    match persistent_id:
        case ("storage", StorageType(dtype=dtype), str() as key, _, int() as count) if count >= 0:
            return Storage(key, dtype, 0, count * dtype.itemsize)
    raise CheckpointError("names a storage in a way that torch does not")
