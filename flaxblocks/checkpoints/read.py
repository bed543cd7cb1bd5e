"""Reading checkpoints into NumPy arrays, without torch.

    arrays = read_checkpoint("weights.pth")

A `.pth` file is a pickle, and a pickle is a program. Here it runs on a machine that can only build
plain data (`torch_pickle.py`), so an untrusted file is safe to read: the result is arrays or a
`CheckpointError`. The arrays are read-only views into the memory-mapped file: reading needs no
memory of its own, and pages are loaded on first access. The file must not be modified in place
while any of its arrays is alive (replacing it, as `write_checkpoint` does, is harmless).
"""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from flaxblocks.checkpoints.choose import chosen, named_by, under
from flaxblocks.checkpoints.contents import contents_of
from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.write import write_checkpoint

__all__ = ["CheckpointError", "read_checkpoint", "write_checkpoint"]


def read_checkpoint(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    key: str | None = None,
    prefix: str | None = None,
    ema: bool | None = None,
    drop: str | Iterable[str] = (),
) -> dict[str, np.ndarray]:
    """Read the state dict of a checkpoint.

    The format is determined from the content. In a training checkpoint the state dict is found
    under whatever key; among several, the one that the program which wrote them evaluates is
    returned, so averaged weights are preferred to raw ones. Everything else in the checkpoint is
    ignored (`contents_of` lists it), and the parts of names that wrappers such as `DataParallel`
    and `torch.compile` add are removed.

    Args:
        source: a file or folder, or a mapping in memory.
        key: key of the state dict, if there are several; a dotted path if nested.
        prefix: return only the arrays whose names have this prefix, such as "backbone.", and remove
            it from the names.
        ema: True for averaged weights, False for raw ones.
        drop: names to leave out, each with all names below it, or patterns such as
            `*.num_updates`. They refer to names that still have `prefix`.

    Returns: arrays by name, in the order and with the dtypes of the file; bfloat16 and the 8-bit
        floats are those of ml_dtypes. Arrays from a file are read-only.
    Raises: CheckpointError, in one sentence, if the source cannot be read, is damaged, tries to run
        code, or holds no such state dict.
    """
    contents = contents_of(source)
    arrays = dict(chosen(contents, key=key, ema=ema)[0].arrays)
    if left_out := _left_out(drop, arrays, contents.name):
        arrays = {name: array for name, array in arrays.items() if name not in left_out}
    if prefix is None:
        return arrays
    try:
        return under(arrays, prefix)
    except CheckpointError as error:
        raise CheckpointError(f"{contents.name}: {error}") from None


def _left_out(drop: str | Iterable[str], names: Collection[str], source: str) -> frozenset[str]:
    """The names that `drop` matches. Raises: CheckpointError if it matches none, or all of them."""
    patterns = (drop,) if isinstance(drop, str) else tuple(drop)
    found = named_by(patterns, names)
    if patterns and not found:
        raise CheckpointError(f"{source}: `drop` (={list(patterns)}) matches none of its names")
    if names and len(found) == len(names):
        raise CheckpointError(f"{source}: `drop` (={list(patterns)}) matches all of its names")
    return found
