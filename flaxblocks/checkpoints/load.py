"""Reading a file or folder in any format, by the first row of `FORMATS` that recognises it."""

import os
from dataclasses import replace
from pathlib import Path

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.formats import FORMATS
from flaxblocks.checkpoints.hub_folder import settings_beside, weights_in
from flaxblocks.checkpoints.opened import Opened, Saved, check_possible, opened
from flaxblocks.checkpoints.shards import read_shards
from flaxblocks.checkpoints.strangers import refuse_file, refuse_folder

__all__ = ["load", "reason"]


def load(path: str | os.PathLike[str]) -> Saved:
    """Read a file or folder.

    Raises: CheckpointError with a sentence that lacks its subject, the path; OSError from the
        operating system.
    """
    check_possible(path)
    if os.path.isdir(path):
        return _load_folder(Path(path))
    with opened(path) as found:
        saved = _read(found)
    return replace(saved, settings=settings_beside(Path(path)))


def reason(error: OSError) -> str:
    """The operating system's reason for an error."""
    return error.strerror or str(error) or type(error).__name__


def _read(found: Opened) -> Saved:
    for row in FORMATS:
        if row.is_file is not None and row.is_file(found):
            return read_shards(found, _shard) if row.read is None else row.read(found)
    raise refuse_file(found.data, found.path)


def _shard(path: Path) -> Saved:
    """Read one of the files that an index lists.

    Raises: CheckpointError naming it.
    """
    try:
        with opened(path) as found:
            return _read_shard(found)
    except CheckpointError as error:
        raise CheckpointError(f"lists {quoted(path.name)}, which {error}") from None
    except OSError as error:
        shown = f"{quoted(path.name)}, which cannot be read"
        raise CheckpointError(f"lists {shown}: {reason(error)}") from None


def _read_shard(found: Opened) -> Saved:
    """Read a file that is not an index, because an index could list itself."""
    for row in FORMATS:
        if row.is_file is not None and row.read is not None and row.is_file(found):
            return row.read(found)
    raise refuse_file(found.data, found.path)


def _load_folder(path: Path) -> Saved:
    for row in FORMATS:
        if row.is_folder is not None and row.read is not None and row.is_folder(path):
            return row.read(path)
    suffixes = [suffix for row in FORMATS if row.is_file is not None for suffix in row.suffixes]
    weights = weights_in(path, suffixes)
    if weights is None:
        raise refuse_folder(path)
    try:
        return load(weights)
    except CheckpointError as error:
        raise CheckpointError(f"holds {weights.name}, which {error}") from None
