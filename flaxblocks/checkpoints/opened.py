"""An opened, memory-mapped checkpoint file, and the result of reading one."""

import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.torch_tensor import Source

__all__ = ["Opened", "Saved", "check_possible", "mapped", "opened"]


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file.

    Attributes:
        path: its path.
        file: the file object, open for reading.
        data: its content, memory-mapped; pages are loaded on first access.
    """

    path: Path
    file: BinaryIO
    data: mmap.mmap


@dataclass(frozen=True, slots=True)
class Saved:
    """The content of a checkpoint, as the reader of its format returns it.

    Attributes:
        value: the saved object, with a description in place of each tensor.
        source: where the bytes of the tensors are.
        settings: the content of its `config.json`, if it has one.
        notes: short descriptions of what was left out.
        key: path of the object within the folder that was read, such as the step of a run.
    """

    value: object
    source: Source = field(default_factory=lambda: Source(0, {}))
    settings: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    key: tuple[str, ...] = ()


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Opened]:
    """Open and memory-map a file. The map stays alive as long as an array views it.

    Raises: CheckpointError if the path is invalid, or the file empty or not a regular one; OSError
        from the operating system.
    """
    _check_regular(path)
    with open(path, "rb") as file:
        yield Opened(Path(path), file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def mapped(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file that may be empty; an empty file cannot be memory-mapped."""
    if path.is_file() and path.stat().st_size == 0:
        return b""
    with opened(path) as found:
        return found.data


def _check_regular(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless it is a regular, non-empty file: opening a pipe would block."""
    check_possible(path)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("is not a regular file")
    if status.st_size == 0:
        raise CheckpointError("is an empty file")


def check_possible(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError for a path that no file can have, such as one with a null byte."""
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise CheckpointError("is not a valid path")
