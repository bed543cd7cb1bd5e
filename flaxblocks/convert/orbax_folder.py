"""Orbax folders to and from arrays by dotted native name. Orbax is imported when it is needed."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxblocks.convert.checkpoint_error import CheckpointError

__all__ = ["read_orbax", "write_orbax"]


def write_orbax(arrays: Mapping[str, np.ndarray], target: str | os.PathLike[str]) -> None:
    """Write arrays, by dotted native name, as an Orbax folder of nested dicts; it appears whole or
    not at all.

    Raises: CheckpointError if the folder cannot be written.
    """
    import orbax.checkpoint as ocp

    target = Path(target).absolute()
    tree: dict = {}
    for name, array in arrays.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(Path(scratch) / "checkpoint", tree)
            if target.is_dir():
                shutil.rmtree(target)
            (Path(scratch) / "checkpoint").replace(target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error


def read_orbax(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an Orbax folder of nested dicts, by dotted name.

    Raises: CheckpointError if Orbax cannot restore the folder.
    """
    import orbax.checkpoint as ocp

    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.restore(path.absolute())
    except Exception as error:  # Orbax raises many kinds for a folder that is none of its own
        raise CheckpointError(f"{path} is a folder, and not one that Orbax can restore") from error
    flat: dict[str, np.ndarray] = {}

    def collect(node: Mapping, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = np.asarray(value)

    collect(tree, "")
    return flat
