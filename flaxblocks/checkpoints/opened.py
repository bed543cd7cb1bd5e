"""A checkpoint's file, opened and mapped, and what its format's reader gives back."""

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
    """A file.

    Attributes:
        path: where it is.
        file: open for reading.
        data: its content, mapped; pages are loaded when they are first looked at.
    """

    path: Path
    file: BinaryIO
    data: mmap.mmap


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        value: the object that was saved, with a description in place of each tensor.
        source: where the tensors' bytes are.
        settings: of a `config.json` that goes with it.
        notes: what else is to be told of it.
        key: where in the folder that was read the object lay, such as the step of a run.
    """

    value: object
    source: Source = field(default_factory=lambda: Source(0, {}))
    settings: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    key: tuple[str, ...] = ()


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Opened]:
    """Open and map a file. The map stays as long as an array views it.

    Raises: CheckpointError if it is no file that can be mapped; OSError as the system gives it.
    """
    _check_regular(path)
    with open(path, "rb") as file:
        yield Opened(Path(path), file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def mapped(path: Path) -> bytes | mmap.mmap:
    """The bytes of a file that may be empty, which the system maps none of."""
    if path.is_file() and path.stat().st_size == 0:
        return b""
    with opened(path) as found:
        return found.data


def _check_regular(path: str | os.PathLike[str]) -> None:
    """Opening a pipe would wait for ever."""
    check_possible(path)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError("is not a regular file")
    if status.st_size == 0:
        raise CheckpointError("is an empty file")


def check_possible(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError for a path that no file can have."""
    try:
        possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise CheckpointError("is not a possible path")
