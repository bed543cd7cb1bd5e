"""Checkpoints in several files, with a JSON index that says which file holds each tensor."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.opened import Opened, Saved
from flaxblocks.checkpoints.torch_tensor import Elsewhere, Source, Tensor

__all__ = ["is_index", "read_shards"]

LARGEST_INDEX = 16 * 2**20
KEY = "weight_map"


def is_index(opened: Opened) -> bool:
    """Whether a file is an index of shards."""
    return opened.data[:1] == b"{" and opened.data.find(b'"weight_map"', 0, LARGEST_INDEX) >= 0


def read_shards(opened: Opened, read: Callable[[Path], Saved]) -> Saved:
    """Read all files that an index lists; they are in its folder.

    Args:
        opened: the index.
        read: function that reads one file.

    Raises: CheckpointError if the index is damaged, or a file lacks a tensor that it should have.
    """
    places = _weight_map(opened)
    shards = {name: read(opened.path.parent / name) for name in dict.fromkeys(places.values())}
    tensors: dict[object, object] = {}
    for name, place in places.items():
        held = shards[place].value
        tensor = held.get(name) if isinstance(held, Mapping) else None
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"lists {quoted(name)} in {quoted(place)}, which lacks it")
        tensors[name] = Elsewhere(tensor, shards[place].source)
    return Saved(tensors, Source(sum(shard.source.size for shard in shards.values()), {}))


def _weight_map(opened: Opened) -> dict[str, str]:
    try:
        index = json.loads(opened.data[:LARGEST_INDEX].decode())
    except (ValueError, RecursionError):
        index = None
    places = index.get(KEY) if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError("is a damaged index of shards")
    for place in places.values():
        plain = isinstance(place, str) and Path(place).name == place and "\0" not in place
        if not plain or place in ("", ".."):
            raise CheckpointError(
                f"lists {quoted(place)}, which is not the name of a file in its folder"
            )
    return places
