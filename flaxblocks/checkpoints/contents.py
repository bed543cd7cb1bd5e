"""The contents of a checkpoint: its state dicts, best first, and a list of everything else in it.

contents = contents_of("checkpoint.pth.tar")
contents.state_dicts[0].arrays["conv1.weight"]
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from flaxblocks.checkpoints.error import CheckpointError, quoted
from flaxblocks.checkpoints.in_memory import values_as_arrays
from flaxblocks.checkpoints.load import load, reason
from flaxblocks.checkpoints.opened import Saved
from flaxblocks.checkpoints.ranks import is_averaged, rank
from flaxblocks.checkpoints.search import Found, described, find, kind_of, needs_unknown
from flaxblocks.checkpoints.torch_tensor import as_arrays
from flaxblocks.checkpoints.wrappers import SeenThrough, see_through

__all__ = ["Contents", "StateDict", "contents_of"]

MOST_WORDS = 20


@dataclass(frozen=True)
class StateDict:
    """A mapping of names to arrays found in a checkpoint.

    Attributes:
        key: its path in the checkpoint, as keys joined by dots; "" for the source itself.
        arrays: arrays by name, without the parts that wrappers add to the names; they are made on
            first access.
        averaged: whether it holds averaged weights.
        left: short descriptions of the entries that were left out.
    """

    key: str
    arrays: Mapping[str, np.ndarray]
    averaged: bool
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """The contents of a file, folder or mapping.

    Attributes:
        name: its name in messages: the path as it was given, or "the mapping".
        state_dicts: one or more, best first.
        others: short descriptions of everything else in it, such as "optimizer (dict)".
        settings: the content of its `config.json`, if it has one.
    """

    name: str
    state_dicts: tuple[StateDict, ...]
    others: tuple[str, ...] = ()
    settings: Mapping[str, Any] | None = None


class LazyArrays(Mapping[str, np.ndarray]):
    """Arrays whose names are known, all of which are made when the first one is accessed."""

    def __init__(self, names: Mapping[str, str], make: Callable[[], dict[str, np.ndarray]]) -> None:
        self._names = names
        self._make = make

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return self._make()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def contents_of(source: str | os.PathLike[str] | Mapping[str, Any]) -> Contents:
    """Read a file, a folder or a mapping and find its state dicts.

    Args:
        source: a checkpoint in any of `formats.FORMATS`, or a mapping in memory: a state dict of
            arrays or torch tensors, or a training checkpoint that contains one.

    Raises: CheckpointError, in one sentence, if the source cannot be read, is damaged, tries to run
        code, or holds no state dict.
    """
    if isinstance(source, Mapping):
        return _contents(Saved(source), "the mapping", in_memory=True)
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(
            f"`source` (a {type(source).__name__}) must be a path or a mapping of names to arrays"
            + (", such as its state_dict()" if hasattr(source, "state_dict") else "")
        )
    name = os.fspath(source)
    try:
        return _contents(load(source), name, in_memory=False)
    except CheckpointError as error:
        raise CheckpointError(f"{name} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {reason(error)}") from None


def _contents(saved: Saved, name: str, in_memory: bool) -> Contents:
    found = find(saved.value)
    usable = [one for one in found if all(isinstance(key, str) for key in one.entries)]
    if in_memory and not usable and isinstance(saved.value, Mapping):
        usable = _plain_values(found, saved.value)
    if not usable:
        raise CheckpointError(_no_state_dict(found, saved.value, name if in_memory else ""))
    swapped = frozenset(one.path[:-1] for one in usable if _is_swapped(one))
    seen = [(one, see_through(one.entries)) for one in usable]
    told = [(one, names, _is_averaged(one, names, swapped)) for one, names in seen]
    ranked = sorted(told, key=lambda one: rank(one[0].path, one[2], len(one[0].entries)))
    states = tuple(_state_dict(*one, saved, name, in_memory) for one in ranked)
    return Contents(name, states, (*saved.notes, *_others(saved.value, usable)), saved.settings)


def _plain_values(found: list[Found], mapping: Mapping[Any, Any]) -> list[Found]:
    """A mapping in memory as a state dict without arrays: of lists of numbers, or of values that
    are refused, with their keys, when they are made into arrays.
    """
    odd = next((key for one in found for key in one.entries if not isinstance(key, str)), None)
    if odd is not None:
        raise CheckpointError(f"key {odd!r} of the source must be a string")
    nested = any(isinstance(value, Mapping) for value in mapping.values())
    return [] if nested or not mapping else [Found((), dict(mapping), {})]


def _is_averaged(one: Found, names: SeenThrough, swapped: Collection[tuple[str, ...]]) -> bool:
    """Whether weights are averaged, as indicated by the keys that lead to them or by their names.

    Args:
        one: the state dict.
        names: the result of `see_through` for its names.
        swapped: the paths of mappings in which averaged and raw weights are swapped.
    """
    if one.path and one.path[:-1] in swapped:
        return one.path[-1] == "state_dict"
    return names.averaged or is_averaged(one.path)


def _is_swapped(one: Found) -> bool:
    """Whether OpenMMLab's averaging wrote a state dict: it saves the averaged weights as
    `state_dict`, and the raw ones, with a count of its steps, as `ema_state_dict`.
    """
    return one.path[-1:] == ("ema_state_dict",) and "steps" in one.entries


def _state_dict(
    one: Found, seen: SeenThrough, averaged: bool, saved: Saved, name: str, in_memory: bool
) -> StateDict:
    entries = {short: one.entries[original] for short, original in seen.names.items()}
    if in_memory and not any(isinstance(value, Mapping) for value in one.others.values()):
        entries.update(one.others)  # numbers and lists, or values to be refused by name
        one = Found(one.path, one.entries, {})
    make = partial(_made, entries, None if in_memory else saved, name)
    return StateDict(
        ".".join((*saved.key, *one.path)),
        LazyArrays(entries, make),
        averaged,
        (*seen.left, *(_in_words(one.others) if one.path else ())),
    )


def _made(entries: dict[str, Any], saved: Saved | None, name: str) -> dict[str, np.ndarray]:
    if saved is None:
        return values_as_arrays(entries)
    try:
        for key, value in entries.items():
            if needs_unknown(value):
                raise CheckpointError(
                    f"holds a tensor {quoted(key)} that only `{kind_of(value)}` can make: "
                    "refused, nothing was run"
                )
        return as_arrays(entries, saved.source)
    except CheckpointError as error:
        raise CheckpointError(f"{name} {error}") from None
    except OSError as error:
        raise CheckpointError(f"{name} cannot be read: {reason(error)}") from None


def _others(saved: object, found: list[Found]) -> tuple[str, ...]:
    """Short descriptions of the top-level entries that are not state dicts."""
    if not isinstance(saved, Mapping) or any(not one.path for one in found):
        top = next((one.others for one in found if not one.path), {})
    else:
        top = saved
    leading = {one.path[0] for one in found if one.path}
    rest = [key for key in top if not (isinstance(key, str) and key in leading)]
    more = [f"{len(rest) - MOST_WORDS} more"] if len(rest) > MOST_WORDS else []
    return (*_in_words({key: top[key] for key in rest[:MOST_WORDS]}), *more)


def _in_words(entries: Mapping[Any, Any]) -> tuple[str, ...]:
    some = list(entries.items())[:MOST_WORDS]
    return tuple(f"{_short(key)} ({kind_of(value)})" for key, value in some)


def _short(key: object) -> str:
    return quoted(key, 40)[1:-1] if isinstance(key, str) else kind_of(key)


def _no_state_dict(found: list[Found], saved: object, name: str) -> str:
    odd = next((key for one in found for key in one.entries if not isinstance(key, str)), None)
    subject = f"{name} " if name else ""
    if odd is not None:
        return f"{subject}holds a state dict with a key of type {kind_of(odd)}, not str"
    return f"{subject}holds no state dict: it is {described(saved)}"
