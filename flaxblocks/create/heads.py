"""Finding the head in a checkpoint: the model's own, one under another name, another, or none.

A fine-tuned network often has a custom head: a `Sequential` instead of one layer, another name, or
no bias. Its body is still the model's.
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
    """What a checkpoint has as a head.

    Attributes:
        kind: "own": a head under the layout's names. "renamed": one linear layer under another
            name. "part": only some of the layout's names. "other": something else. "absent":
            nothing. "none": the model has no head.
        keys: the layout's names of the head.
        names: the names of the checkpoint's head: keys of `Place.arrays`, or full names in the
            state dict if it is outside of the network's prefix.
        num_classes: its number of outputs; None if it is not one linear layer or is absent.
        arrays: layout's name -> array, for the kinds "own", "renamed" and "part".
    """

    kind: Literal["own", "renamed", "part", "other", "absent", "none"]
    keys: tuple[str, ...]
    names: tuple[str, ...]
    num_classes: int | None
    arrays: Mapping[str, np.ndarray]

    @property
    def phrase(self) -> str:
        """A note on a head that was taken under another name; else ""."""
        if self.kind != "renamed":
            return ""
        there, here = (names[0].rpartition(".")[0] for names in (self.names, self.keys))
        return f"the head is called {there} there, and {here} in this layout" * (there != here)


def find_head(place: Place) -> Head:
    """Find the head of the network at a place in a checkpoint."""
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
    """The arrays of the state dict outside of the network that have a usual name of a head."""
    names = [name for name in place.beside if name in place.state.arrays and is_headlike(name)]
    return _of(place.state.arrays, names) if place.prefix or place.within else {}


def _one_linear(arrays: Mapping[str, np.ndarray], entries: list[Entry]) -> list[str]:
    """The names of the arrays, in the order of the head's, if they are one linear layer; else an
    empty list.
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
    """The number of outputs of a kernel."""
    array = place.arrays[kernel.foreign]
    return array.shape[-1 if place.found.keys.layout == NATIVE else 0]


def _of(arrays: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: arrays[name] for name in names}
