"""Reading and writing Orbax folders: arrays by dotted native name, or an `nnx.State` to write.

Orbax is imported only when needed, Flax never.
"""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxblocks.checkpoints.error import CheckpointError
from flaxblocks.checkpoints.opened import Saved
from flaxblocks.checkpoints.ranks import is_of_training

__all__ = ["is_orbax", "is_state", "orbax_saved", "read_orbax", "write_orbax"]

MARK = "_CHECKPOINT_METADATA"  # a file in every Orbax folder
TREE = "_METADATA"  # a file in every folder that holds a tree of arrays
ITEMS = ("default", "state", "params", "model")  # usual names of the trees in a step
WHOLE = ("model", "params", "state", "ema", "opt_state")  # parts of a training program's state
STEP = re.compile(r"(?:[a-z_]+_)?(\d+)")

Keys = tuple[str, ...]


def is_state(value: object) -> bool:
    """Whether a value is an `nnx.State`, which cannot exist unless Flax has been imported."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.State)


def write_orbax(arrays: Mapping[str, Any], target: str | os.PathLike[str]) -> None:
    """Write an Orbax folder, completely or not at all.

    Args:
        arrays: an `nnx.State`, written as by `ocp.StandardCheckpointer().save`, for
            `restore(path, nnx.state(model))`; or arrays by dotted native name, written as nested
            dicts.
        target: path of the folder.

    Raises: CheckpointError if the folder cannot be written, or if something other than an Orbax
        folder exists at `target`. ValueError for a state with a variable that holds no numbers, and
        for two names of which one is a prefix of the other.
    """
    import orbax.checkpoint as ocp

    target = Path(target).absolute()
    if target.exists() and not (target / MARK).is_file():
        raise CheckpointError(f"{target} exists and is not an Orbax folder: not replaced")
    tree = _checked(arrays) if is_state(arrays) else _nested(arrays)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            # Weights hardly compress, and compressing takes memory and time.
            handler = ocp.PyTreeCheckpointHandler(use_compression=False)
            with ocp.Checkpointer(handler) as checkpointer:
                checkpointer.save(Path(scratch) / "checkpoint", tree)
            _swap(Path(scratch) / "checkpoint", target, Path(scratch) / "old")
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error


def _checked(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state itself. Raises: ValueError if one of its variables holds no numbers."""
    import jax  # installed, since there is a state

    for path, variable in _leaves(state):
        value = variable.get_value() if hasattr(variable, "get_value") else variable
        if not isinstance(value, jax.Array | np.ndarray):
            kind = type(value).__name__
            raise ValueError(f"arrays[{'.'.join(path)!r}] (a {kind}) must be an array of numbers")
    return state


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Nested dicts, one level for each part of the dotted names."""
    tree: dict[str, Any] = {}
    for name, array in sorted(arrays.items()):
        *parents, leaf = name.split(".")
        node = tree
        for depth, parent in enumerate(parents, 1):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                outer = ".".join(parents[:depth])
                raise ValueError(f"arrays has {outer!r} and {name!r}: no folder can hold both")
        node[leaf] = array
    return tree


def _swap(new: Path, target: Path, aside: Path) -> None:
    """Move `new` to `target` in two steps, since a non-empty folder cannot be replaced in one."""
    if target.exists():
        target.replace(aside)
    try:
        new.replace(target)
    except BaseException:
        if aside.exists():
            aside.replace(target)
        raise


def is_orbax(path: Path) -> bool:
    """Whether a folder is Orbax's: one with a tree of arrays, or with the steps of a run."""
    return _tree_in(path) is not None


def orbax_saved(path: Path) -> Saved:
    """Read the arrays of an Orbax folder, by dotted name, whatever devices wrote them.

    Of the steps of a run the newest is read. The state of random streams is left out.

    Raises: CheckpointError with a sentence that lacks its subject, the path, if Orbax cannot
        restore the folder or it holds no arrays.
    """
    folder = _tree_in(path)
    if folder is None:
        raise CheckpointError("is a folder that Orbax did not write")
    arrays, streams = _restored(folder)
    if not arrays:
        raise CheckpointError("is an Orbax folder without arrays")
    notes = (f"random streams ({streams} arrays)",) if streams else ()
    return Saved(_by_name(arrays), notes=notes, key=folder.relative_to(path).parts)


def read_orbax(path: Path) -> dict[str, Any]:
    """The arrays of an Orbax folder by dotted name. Raises: CheckpointError as `orbax_saved`."""
    try:
        return dict(orbax_saved(path).value)  # type: ignore[call-overload]
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None


def _tree_in(path: Path) -> Path | None:
    """The folder that holds a tree of arrays: `path`, an item in it, or one in the newest step."""
    if (path / TREE).is_file():
        return path
    items = [path / name for name in ITEMS if (path / name / TREE).is_file()]
    if items:
        return items[0]
    steps = [entry for entry in path.iterdir() if STEP.fullmatch(entry.name) and entry.is_dir()]
    for step in sorted(steps, key=lambda entry: -int(STEP.findall(entry.name)[0])):
        inner = _tree_in(step)
        if inner is not None:
            return inner
    if (path / "checkpoints").is_dir():
        return _tree_in(path / "checkpoints")
    rest = [entry for entry in path.iterdir() if (entry / TREE).is_file()]
    return rest[0] if len(rest) == 1 and (path / MARK).is_file() else None


def _restored(folder: Path) -> tuple[dict[Keys, np.ndarray], int]:
    """The arrays by path, and the number of arrays of random streams, which are left out."""
    import orbax.checkpoint as ocp
    from etils import epath  # the type of Orbax's own paths

    directory = epath.Path(folder.absolute())
    handler = ocp.PyTreeCheckpointHandler()
    try:
        stored = handler.metadata(directory).tree
        kept = {path for path, leaf in _leaves(stored) if not _is_random(path, leaf)}
        streams = sum(1 for _ in _leaves(stored)) - len(kept)
        wanted = _mapped(stored, lambda path: 0 if path in kept else ocp.PLACEHOLDER)
        how = _mapped(stored, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
        tree = handler.restore(
            directory, args=ocp.args.PyTreeRestore(item=wanted, restore_args=how)
        )
    except Exception as error:  # Orbax raises many types for folders that it did not write
        raise CheckpointError("is a folder that Orbax cannot restore") from error
    finally:
        handler.close()
    return {path: np.asarray(leaf) for path, leaf in _leaves(tree) if path in kept}, streams


def _by_name(arrays: Mapping[Keys, np.ndarray]) -> dict[str, Any]:
    """Arrays by dotted name; for the whole state of a training program, a dict of such dicts.

    Checkpoints of this project's own training program hold a model's variables in three dicts, and
    the averages of some of them in two more; these are merged into "params" and "average".
    """
    tops = {path[0] for path in arrays}
    if not any(is_of_training(top) or top in WHOLE for top in tops):
        return {_name(path): array for path, array in arrays.items()}
    parts: dict[str, Any] = {
        top: arrays[top,] if (top,) in arrays else _below(arrays, (top,)) for top in sorted(tops)
    }
    if not {"params", "diverged"} <= tops:
        return parts
    fixed = {**parts.pop("frozen", {}), **parts.pop("buffers", {})}
    average = parts.pop("average", {})
    parts["params"] = {**parts["params"], **fixed}
    if average:
        averages = {
            **_below(arrays, ("average", "params")),
            **_below(arrays, ("average", "buffers")),
        }
        parts["average"] = {**parts["params"], **averages}
    return parts


def _below(arrays: Mapping[Keys, np.ndarray], start: Keys) -> dict[str, np.ndarray]:
    depth = len(start)
    return {
        _name(path[depth:]): array
        for path, array in arrays.items()
        if path[:depth] == start and len(path) > depth
    }


def _leaves(node: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in _children(node):
        if _children(value):
            yield from _leaves(value, (*path, str(key)))
        elif not isinstance(value, Mapping | list | tuple):
            yield (*path, str(key)), value


def _children(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list | tuple) else []


def _mapped(node: Any, make: Callable[[Keys], Any], path: Keys = ()) -> Any:
    """A tree of the same structure with the leaves `make(path)`."""
    if isinstance(node, Mapping):
        return {key: _mapped(value, make, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_mapped(v, make, (*path, str(i))) for i, v in enumerate(node))
    return make(path)


def _is_random(path: Keys, leaf: Any) -> bool:
    """Whether a leaf belongs to an `nnx.Rngs`: a key, or the count of its uses."""
    dtype = str(getattr(leaf, "dtype", ""))
    return "rngs" in path or "key<" in dtype or path[-1] in ("rng_key", "rng_count")


def _name(path: Keys) -> str:
    """The dotted name of a path; an `nnx.State` keeps the array of a variable under "value"."""
    return ".".join(path[:-1] if path[-1] == "value" and len(path) > 1 else path)
