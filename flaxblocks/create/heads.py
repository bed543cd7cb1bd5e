"""What a checkpoint has for a head: the model's own, one under another name, another, or none.

A network that was trained further has often a head of its program's making: a `Sequential` in the
place of one layer, another name, no bias. Its body is then still the model's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flaxblocks.convert.keymap import NATIVE, Entry
from flaxblocks.create.head_names import HEAD, body_of, is_headlike, is_of_head, within_head
from flaxblocks.create.places import Place

__all__ = ["Head", "find_head"]


@dataclass(frozen=True)
class Head:
    """What is in the place of a head.

    Attributes:
        kind: "own": under the layout's names. "renamed": one linear layer of another name. "part":
            some of the layout's names. "other": something else. "absent": nothing. "none": the
            model has no head.
        keys: the layout's names of the head.
        names: what the checkpoint has for it: by the keys of `Place.arrays`, or, where it lies
            outside of the network's prefix, by whole names of the state dict.
        num_classes: how wide it is; None where it is more than one layer, or not there.
        arrays: layout's name -> array, of an "own" or "renamed" one, or of a part.
    """

    kind: Literal["own", "renamed", "part", "other", "absent", "none"]
    keys: tuple[str, ...]
    names: tuple[str, ...]
    num_classes: int | None
    arrays: Mapping[str, np.ndarray]

    @property
    def phrase(self) -> str:
        """What is worth saying of a head that was taken."""
        if self.kind != "renamed":
            return ""
        there, here = (names[0].rpartition(".")[0] for names in (self.names, self.keys))
        return f"the head is called {there} there, and {here} in this layout" * (there != here)


def find_head(place: Place) -> Head:
    """What a network's place has for the head of the model that it was held against."""
    entries = [e for e in place.found.keys.entries if e.native.startswith(f"{HEAD}.")]
    keys = tuple(entry.foreign for entry in entries)
    if not entries:
        return Head("none", (), (), None, {})
    present = tuple(key for key in keys if key in place.arrays)
    body = body_of(place.found.keys)
    within = within_head(place.found.keys, body)
    inside = [
        name for name in place.found.unexpected if name.startswith(within) or is_of_head(name, body)
    ]
    if present and not inside:
        kind = "own" if len(present) == len(keys) and _is_matrix(place, entries[0]) else "part"
        held = {key: place.arrays[key] for key in present}
        wide = _width(entries[0], place) if entries[0].foreign in held else None
        return Head(kind, keys, present, wide, held)
    if not present:
        arrays = _of(place.arrays, inside) or _outside(place)
        renamed = _one_linear(arrays, entries)
        if renamed:
            held = {key: arrays[name] for key, name in zip(keys, renamed, strict=True)}
            wide = held[keys[0]].shape[0]
            return Head("renamed", keys, tuple(renamed), wide, held)
    names = (*present, *inside)
    return Head("other" if names else "absent", keys, names, None, {})


def _outside(place: Place) -> dict[str, np.ndarray]:
    """What lies beside the network in its state dict and is called as a head."""
    names = [name for name in place.beside if name in place.state.arrays and is_headlike(name)]
    return _of(place.state.arrays, names) if place.prefix or place.within else {}


def _one_linear(arrays: Mapping[str, np.ndarray], entries: list[Entry]) -> list[str]:
    """The names of the one linear layer that these arrays are, in the order of the head's own;
    empty if they are anything else.
    """
    layer = {name.rpartition(".")[0] for name in arrays}
    leaves = [entry.foreign.rpartition(".")[2] for entry in entries]
    if len(layer) != 1 or len(arrays) != len(entries):
        return []
    names = [f"{next(iter(layer))}.{leaf}" for leaf in leaves]
    fits = all(
        name in arrays and arrays[name].shape[1:] == entry.foreign_shape[1:]
        for name, entry in zip(names, entries, strict=True)
    )
    return names if fits and len({arrays[name].shape[:1] for name in names}) == 1 else []


def _is_matrix(place: Place, kernel: Entry) -> bool:
    return place.arrays[kernel.foreign].ndim == len(kernel.foreign_shape)


def _width(kernel: Entry, place: Place) -> int:
    """How many outputs a kernel has."""
    array = place.arrays[kernel.foreign]
    return array.shape[-1 if place.found.keys.layout == NATIVE else 0]


def _of(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: arrays[name] for name in names}
