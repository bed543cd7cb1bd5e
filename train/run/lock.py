"""A lock that allows one run per folder: two would overwrite each other's checkpoints."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from train.saving.disk import writing

__all__ = ["alone_in"]

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Create `folder` and lock it against other runs until the block or this process ends.

    The operating system releases the lock of a killed process. On file systems without locks, such
    as some network disks, the run proceeds without one. Of the processes of one run, the first
    holds the lock.

    Raises: ValueError if another run uses the folder.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() > 0 or os.name != "posix":
        yield
        return
    import fcntl

    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ValueError(
                f"--out {folder} is in use by another run, process {file.read().strip()}: give "
                "this one another --out, or wait"
            ) from error
        except OSError:
            yield
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
