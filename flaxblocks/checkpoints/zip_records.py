"""The records of a zip archive: where their bytes are, compressed or not.

Only the positions of the bytes are read from the archive. Checksums are not verified, because torch
can be told not to compute them: compare a downloaded file with its SHA-256 instead. All records
together may inflate to at most `8 x file size + 64 MiB`, the same limit as for arrays.
"""

import io
import mmap
import struct
import zipfile
from typing import BinaryIO

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.window import Deflated, Window

__all__ = ["Records", "records_of"]

LARGEST_DIRECTORY = 16 * 2**20  # some 200,000 records
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field

Records = dict[str, Window | Deflated]


def records_of(file: BinaryIO, data: mmap.mmap) -> Records:
    """The content of every record by name, in the order of the archive; folders are left out.

    Args:
        file: the open file.
        data: the same file, memory-mapped.

    Raises: CheckpointError if the archive is damaged, or its records overlap.
    """
    infos = _directory(file)
    places: Records = {}
    free, inflated = 0, 0
    for name, info in sorted(infos.items(), key=lambda record: record[1].header_offset):
        places[name] = _place(name, info, data, free)
        free = _end(places[name])
        inflated += info.file_size
        if inflated > 8 * len(data) + 64 * 2**20:
            raise CheckpointError("is a zip archive that expands to far more than the file holds")
    return {name: places[name] for name in infos if not name.endswith("/")}


class _BoundedFile(io.FileIO):
    """A file that refuses to allocate an excessive number of bytes that an archive claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile
        return super().read(size) or b""


def _directory(file: BinaryIO) -> dict[str, zipfile.ZipInfo]:
    """The entries of the archive's directory by name, in its order."""
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


def _place(name: str, info: zipfile.ZipInfo, data: mmap.mmap, free: int) -> Window | Deflated:
    """The content of a record, whose header must not begin before `free`, where the last ended."""
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    if info.flag_bits & 1 or not (deflated or info.compress_type == zipfile.ZIP_STORED):
        raise CheckpointError(
            f"has a compressed or encrypted record {quoted(name)}, which cannot be read here"
        )
    header = info.header_offset
    if not free <= header <= len(data) - LOCAL_HEADER.size:
        raise CheckpointError(f"has a record {quoted(name)} that overlaps another or is cut off")
    signature, name_length, extra_length = LOCAL_HEADER.unpack_from(data, header)
    start = header + LOCAL_HEADER.size + name_length + extra_length
    fits = start + info.compress_size <= len(data) and signature == b"PK\x03\x04"
    if not fits or not (deflated or info.compress_size == info.file_size):
        raise CheckpointError(f"is truncated or damaged: it lacks the record {quoted(name)}")
    content = Window(data, start, info.compress_size)
    return Deflated(content, info.file_size) if deflated else content


def _end(place: Window | Deflated) -> int:
    content = place.source if isinstance(place, Deflated) else place
    return content.start + content.size
