"""Orbax folders to and from arrays by dotted native name. Orbax is imported when it is needed."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from flaxblocks.checkpoints.error import CheckpointError

__all__ = ["read_orbax", "write_orbax"]

MARK = "_CHECKPOINT_METADATA"  # a file that lies in every folder of Orbax's


def write_orbax(arrays: Mapping[str, np.ndarray], target: str | os.PathLike[str]) -> None:
    """Write arrays, by dotted native name, as an Orbax folder of nested dicts; it appears whole or
    not at all.

    Raises: CheckpointError if the folder cannot be written, or if something else than an Orbax
        folder lies there.
    """
    import orbax.checkpoint as ocp

    target = Path(target).absolute()
    if target.exists() and not (target / MARK).is_file():
        raise CheckpointError(f"{target} is there and no Orbax folder: it will not be replaced")
    tree: dict = {}
    for name, array in arrays.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            # Weights hardly compress, and compressing takes memory and time.
            handler = ocp.PyTreeCheckpointHandler(use_compression=False)
            with ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(Path(scratch) / "checkpoint", tree)
            _swap(Path(scratch) / "checkpoint", target, Path(scratch) / "old")
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error


def _swap(new: Path, target: Path, aside: Path) -> None:
    """Put `new` at `target`; the system cannot replace a folder that is not empty in one step."""
    if target.exists():
        target.replace(aside)
    try:
        new.replace(target)
    except BaseException:
        if aside.exists():
            aside.replace(target)
        raise


def read_orbax(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an Orbax folder of nested dicts, by dotted name, whatever devices wrote them.

    Raises: CheckpointError if Orbax cannot restore the folder.
    """
    import orbax.checkpoint as ocp

    if not (path / MARK).is_file():
        raise CheckpointError(f"{path} is a folder, and none that Orbax wrote")
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            stored = checkpointer.metadata(path.absolute()).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
            tree = checkpointer.restore(path.absolute(), restore_args=as_numpy)
    except Exception as error:  # Orbax raises many kinds for a folder that is none of its own
        raise CheckpointError(f"{path} is a folder, and not one that Orbax can restore") from error
    flat: dict[str, np.ndarray] = {}

    def collect(node: Mapping, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping) and set(value) == {"value"}:  # of an `nnx.State`
                flat[f"{prefix}{key}"] = np.asarray(value["value"])
            elif isinstance(value, Mapping):
                collect(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{key}"] = np.asarray(value)

    collect(tree, "")
    return flat
