"""One run in a folder at a time: two would write over each other's checkpoints."""

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
    """Make `folder`, and keep other runs out of it until the block or this process ends.

    The system lets go of the lock of a process that was killed. Where it has no such locks, as
    some network disks, the run goes on without. The processes of one run share it: the first one
    holds the lock.

    Raises: ValueError if another run is in there.
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
