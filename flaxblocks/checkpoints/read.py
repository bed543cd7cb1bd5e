"""Checkpoint files to NumPy arrays, without torch.

    arrays = read_checkpoint("weights.pth")

A `.pth` file is a pickle, and a pickle is a program. Here it runs on a machine that can build plain
data only (`torch_pickle.py`), so a file from a stranger is safe to read: it yields arrays or a
`CheckpointError`. The arrays are read-only views into the mapped file: reading costs no memory of
its own, pages are loaded when they are first looked at, and the file must not be changed in place
while an array of it lives (replacing it, as `write_checkpoint` does, is harmless).
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

    The format is told from the content. A state dict inside of a training checkpoint is found,
    whatever its key; of several the one is taken that the program which wrote them evaluates, so
    averaged weights before raw ones. Everything else is left out (`contents_of` tells what), and
    what wrappers such as `DataParallel` and `torch.compile` put into the names.

    Args:
        source: a file or folder, or a mapping in memory.
        key: of the state dict to take, dotted, where there are several.
        prefix: give only what lies below it in the names, such as "backbone.", without it.
        ema: True for averaged weights, False for raw ones.
        drop: names to leave out, each with all below it, or patterns such as `*.num_updates`; of
            names as they are before `prefix` is taken off.

    Returns: arrays by name, in the order of the file, with the file's dtypes; bfloat16 and the
        8-bit floats are those of ml_dtypes. Those of a file are read-only.
    Raises: CheckpointError, in one sentence, if the source cannot be read, is damaged, asks for
        code to be run, or holds no such state dict.
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
    """The names that `drop` means. Raises: CheckpointError if it means none, or all of them."""
    patterns = (drop,) if isinstance(drop, str) else tuple(drop)
    found = named_by(patterns, names)
    if patterns and not found:
        raise CheckpointError(f"{source}: `drop` (={list(patterns)}) names nothing in it")
    if names and len(found) == len(names):
        raise CheckpointError(f"{source}: `drop` (={list(patterns)}) leaves nothing of it")
    return found
