"""Removing from the names of a state dict the parts that wrappers add.

`DataParallel` and `torch.compile` put a component in front of every name; FSDP, activation
checkpointing and Lightning's Fabric put one anywhere in a name. `AveragedModel` and thop add
counters of their own to the weights.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

__all__ = ["SeenThrough", "see_through"]

INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
OUTER = "module."
AVERAGING_COUNT = "n_averaged"
COUNTS_OF_THOP = ("total_ops", "total_params")


class SeenThrough(NamedTuple):
    """The result of `see_through`.

    Attributes:
        names: the original name of each entry, by its shortened name.
        averaged: whether the weights are those of an `AveragedModel`.
        left: short descriptions of the entries that were left out.
    """

    names: Mapping[str, str]
    averaged: bool
    left: tuple[str, ...]


def see_through(names: Iterable[str]) -> SeenThrough:
    """Remove the components that wrappers add, if the names stay distinct.

    `module.` is removed only if all names begin with it: a network may have a module of that name.
    """
    bookkeeping = Counter()
    found: dict[str, str] = {}
    for name in names:
        last = name.rpartition(".")[2]
        if last in COUNTS_OF_THOP:
            bookkeeping[last] += 1
        else:
            found[name] = name
    if not found:  # there is nothing else, so keep them
        found = {name: name for name in names}
        bookkeeping.clear()
    left = [f"{name} ({count} times)" if count > 1 else name for name, count in bookkeeping.items()]
    found = _without_inner(found)
    found, averaged = _without_outer(found)
    return SeenThrough(found, averaged, (*left, *((AVERAGING_COUNT,) if averaged else ())))


def _without_inner(names: dict[str, str]) -> dict[str, str]:
    if not any(wrapper in name for name in names for wrapper in INNER):
        return names
    short = {_shortened(name): original for name, original in names.items()}
    return short if len(short) == len(names) else names


def _shortened(name: str) -> str:
    *parents, leaf = name.split(".")
    return ".".join([*(part for part in parents if part not in INNER), leaf])


def _without_outer(names: dict[str, str]) -> tuple[dict[str, str], bool]:
    """Remove `module.` as long as all names begin with it, and with it `AveragedModel`'s count."""
    averaged = False
    while True:
        inner = [name for name in names if name != AVERAGING_COUNT]
        if not inner or not all(name.startswith(OUTER) and name != OUTER for name in inner):
            return names, averaged
        averaged |= AVERAGING_COUNT in names
        names = {name.removeprefix(OUTER): names[name] for name in inner}
