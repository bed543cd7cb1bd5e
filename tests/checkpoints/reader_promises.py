"""What the reader promises of any file whatever, held against what it does with one.

The tests hold it with files that are damaged in ways written down, `tools/fuzz_reader.py` with
files that it finds itself.
"""

import encodings.cp437  # noqa: F401  # of names in zip archives: else imported by the first
import os
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.read import CheckpointError, read_checkpoint

__all__ = ["all_told", "is_refused", "memory_traced"]

MOST_BYTES = 2 * 2**20  # of memory for any of these files; the largest has a few KB
MOST_SECONDS = 2.0  # of the processor; a thousand times what reading one takes
# Of what Python tells of itself, all that reading asks for: `compile` parses NumPy's headers, and
# runs nothing, for that is `exec`.
ASKED_FOR = {"open", "mmap.__new__", "os.listdir", "os.scandir", "compile"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class _Watch:
    """Sees what is asked for while a file is read, in `folder`; what must not be is refused."""

    folder: Path | None = None
    seen: list[str]

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.folder is None or (event in ASKED_FOR and not self.strange(event, *arguments)):
            return
        self.seen.append(f"{event} {arguments}")
        raise RuntimeError(f"a file made its reader ask for {self.seen[-1]}")

    def strange(self, event: str, path: object, _: object = None, flags: int = 0, *__: int) -> bool:
        """Whether a file is opened to be written, or one that lies elsewhere."""
        elsewhere = isinstance(path, str) and os.path.dirname(path) != str(self.folder)
        return event == "open" and (elsewhere or bool(flags & WRITING))


_watch = _Watch()
sys.addaudithook(_watch)  # for good: there is no way to take one back


@contextmanager
def nothing_run(folder: Path) -> Iterator[None]:
    """Assert that nothing is imported, run or written, and no file opened elsewhere."""
    _watch.folder, _watch.seen = folder, []
    try:
        yield
    finally:
        _watch.folder = None
    assert not _watch.seen, _watch.seen


@contextmanager
def memory_traced() -> Iterator[None]:
    """Needed around `is_refused`, and dear to begin and to end."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@contextmanager
def little_used() -> Iterator[None]:
    """Assert that it takes little memory and time, and warns of nothing."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    begin = time.process_time()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
    seconds = time.process_time() - begin
    used = tracemalloc.get_traced_memory()[1] - before
    assert not warned, warned[0]
    assert seconds < MOST_SECONDS, f"{seconds} s"
    assert used < MOST_BYTES, f"{used} bytes"


Read = Callable[[Path], Mapping[str, np.ndarray]]


def is_refused(
    content: bytes, path: Path, source: Path | None = None, read: Read = read_checkpoint
) -> bool:
    """Read a file and hold the outcome against the reader's promises.

    Args:
        content: of the file.
        path: where it is to be.
        source: what is read; by default the file, else the folder that it lies in.
        read: what reads it.
    """
    source = source or path
    path.unlink(missing_ok=True)  # several times faster than to write over it
    path.write_bytes(content)
    message, arrays = None, {}
    with nothing_run(path.parent), little_used():
        try:
            arrays = read(source)
        except CheckpointError as error:
            message = str(error)
    if message is None:
        _hold_arrays(arrays, len(content) + _size_beside(path))
    else:
        _hold_message(message, source)
    return message is not None


def all_told(source: Path) -> Mapping[str, np.ndarray]:
    """Reads what `read_checkpoint` does not look at: the last state dict, and all that is said."""
    contents = contents_of(source)
    left = (word for state in contents.state_dicts for word in state.left)
    assert all(word.isprintable() for word in (*contents.others, *left))
    assert contents.settings is None or type(contents.settings) is dict
    return dict(contents.state_dicts[-1].arrays)


def _size_beside(path: Path) -> int:
    return sum(other.stat().st_size for other in path.parent.iterdir() if other != path)


def _hold_message(message: str, source: Path) -> None:
    assert message.startswith(f"{source} "), message
    assert message.isprintable(), ascii(message)
    assert len(message) < 700, message


def _hold_arrays(arrays: Mapping[str, np.ndarray], size: int) -> None:
    assert arrays, "neither arrays nor an error"
    assert sum(array.nbytes for array in arrays.values()) <= 8 * size + 64 * 2**20
    for name, array in arrays.items():
        assert type(name) is str, type(name)
        assert type(array) is np.ndarray, type(array)
        assert not array.flags.writeable, name
        if array.size:  # both ends of its memory can be read
            array[(0,) * array.ndim].tobytes()
            array[(-1,) * array.ndim].tobytes()
