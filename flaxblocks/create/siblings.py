"""A head that a program saved in a state dict of its own, beside the one of the body:
`{"backbone": backbone.state_dict(), "classifier": classifier.state_dict()}`.
"""

from collections.abc import Iterator
from dataclasses import replace

from flaxblocks.checkpoints.contents import Contents, StateDict
from flaxblocks.create.head_names import is_headlike
from flaxblocks.create.heads import Head, find_head
from flaxblocks.create.places import Choice, Place
from flaxblocks.create.source import arrays_of

__all__ = ["head_beside"]


def head_beside(place: Place, contents: Contents, choice: Choice | None) -> tuple[Place, Head]:
    """A place and its head, which may be in a state dict next to that of the place.

    If so, the result is a place in the mapping that holds both.
    """
    head = find_head(place)
    if head.kind != "absent" or not place.state.key or (choice and choice.key is not None):
        return place, head
    parts = list(_heads_beside(place.state, contents))
    if not parts:
        return place, head
    parent, _, own = place.state.key.rpartition(".")
    beside = {
        f"{part.key.rpartition('.')[2]}.{name}": array
        for part in parts
        for name, array in arrays_of(part, contents).items()
    }
    inner = {f"{own}.{name}": array for name, array in place.state.arrays.items()}
    joined = replace(
        place,
        state=replace(place.state, key=parent, arrays={**inner, **beside}),
        prefix=f"{own}.{place.prefix}",
        beside=(*(f"{own}.{name}" for name in place.beside), *beside),
        joined=(place.state.key, *(part.key for part in parts)),
    )
    return joined, find_head(joined)


def _heads_beside(body: StateDict, contents: Contents) -> Iterator[StateDict]:
    """The state dicts of the same mapping whose names are all those of a head."""
    parent = body.key.rpartition(".")[0]
    for state in contents.state_dicts:
        above, _, own = state.key.rpartition(".")
        names = (f"{own}.{name}" for name in state.arrays)
        if state.key not in ("", body.key) and above == parent and all(map(is_headlike, names)):
            yield state
