"""Orbax folders to and from arrays by dotted native name, and from a state of Flax's. Orbax is
imported when it is needed, Flax never.
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

MARK = "_CHECKPOINT_METADATA"  # a file that lies in every folder of Orbax's
TREE = "_METADATA"  # and in one of a tree of arrays
ITEMS = ("default", "state", "params", "model")  # names of trees within a step, and of steps
WHOLE = ("model", "params", "state", "ema", "opt_state")  # parts of a program's state
STEP = re.compile(r"(?:[a-z_]+_)?(\d+)")

Keys = tuple[str, ...]


def is_state(value: object) -> bool:
    """Whether it is an `nnx.State`, which nobody has without having imported Flax."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.State)


def write_orbax(arrays: Mapping[str, Any], target: str | os.PathLike[str]) -> None:
    """Write an Orbax folder; it appears whole or not at all.

    Args:
        arrays: an `nnx.State`, which becomes what `ocp.StandardCheckpointer().save` makes of it,
            for `restore(path, nnx.state(model))`; or arrays by dotted native name, which become
            nested dicts.
        target: the folder.

    Raises: CheckpointError if the folder cannot be written, or if something else than an Orbax
        folder lies there. ValueError for a state without numbers, and for a name that is another
        one's beginning.
    """
    import orbax.checkpoint as ocp

    target = Path(target).absolute()
    if target.exists() and not (target / MARK).is_file():
        raise CheckpointError(f"{target} is there and no Orbax folder: it will not be replaced")
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
    """A state, if each of its variables holds numbers."""
    import jax  # which is there, as a state is

    for path, variable in _leaves(state):
        value = variable.get_value() if hasattr(variable, "get_value") else variable
        if not isinstance(value, jax.Array | np.ndarray):
            kind = type(value).__name__
            raise ValueError(f"arrays[{'.'.join(path)!r}] (a {kind}) must hold an array's numbers")
    return state


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Dicts in dicts, by the names' parts."""
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
    """Put `new` at `target`; the system cannot replace a folder that is not empty in one step."""
    if target.exists():
        target.replace(aside)
    try:
        new.replace(target)
    except BaseException:
        if aside.exists():
            aside.replace(target)
        raise


def is_orbax(path: Path) -> bool:
    """Whether Orbax wrote a folder: a tree of arrays, or the steps of a run."""
    return _tree_in(path) is not None


def orbax_saved(path: Path) -> Saved:
    """The arrays of an Orbax folder by dotted name, whatever devices wrote them; of the steps of a
    run the newest. What a network's random streams hold is left out.

    Raises: CheckpointError, in a sentence that lacks its subject, if Orbax cannot restore the
        folder or it holds no arrays.
    """
    folder = _tree_in(path)
    if folder is None:
        raise CheckpointError("is a folder, and none that Orbax wrote")
    arrays, streams = _restored(folder)
    if not arrays:
        raise CheckpointError("is a folder of Orbax's without arrays")
    notes = (f"random streams ({streams} arrays)",) if streams else ()
    return Saved(_by_name(arrays), notes=notes, key=folder.relative_to(path).parts)


def read_orbax(path: Path) -> dict[str, Any]:
    """The arrays of an Orbax folder by dotted name. Raises: CheckpointError as `orbax_saved`."""
    try:
        return dict(orbax_saved(path).value)  # type: ignore[call-overload]
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None


def _tree_in(path: Path) -> Path | None:
    """The folder of a tree of arrays: this one, the item of a step, or that of the newest step."""
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
    """The arrays by path, and how many were left out as those of random streams."""
    import orbax.checkpoint as ocp
    from etils import epath  # which Orbax's own paths are

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
    except Exception as error:  # Orbax raises many kinds for a folder that is none of its own
        raise CheckpointError("is a folder, and not one that Orbax can restore") from error
    finally:
        handler.close()
    return {path: np.asarray(leaf) for path, leaf in _leaves(tree) if path in kept}, streams


def _by_name(arrays: Mapping[Keys, np.ndarray]) -> dict[str, Any]:
    """Flat, by dotted names; of a program's whole state a dict of such dicts.

    A run of this project's own trainer keeps a model's variables in three dicts, and in two more
    the averages of those that are averaged.
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
    """A tree of the same form with other leaves."""
    if isinstance(node, Mapping):
        return {key: _mapped(value, make, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_mapped(v, make, (*path, str(i))) for i, v in enumerate(node))
    return make(path)


def _is_random(path: Keys, leaf: Any) -> bool:
    """Whether it belongs to an `nnx.Rngs`: a key or the count of its uses."""
    dtype = str(getattr(leaf, "dtype", ""))
    return "rngs" in path or "key<" in dtype or path[-1] in ("rng_key", "rng_count")


def _name(path: Keys) -> str:
    """Dotted; an `nnx.State` keeps the array of each variable under "value"."""
    return ".".join(path[:-1] if path[-1] == "value" and len(path) > 1 else path)
