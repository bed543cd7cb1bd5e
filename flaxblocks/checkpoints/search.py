"""Finding the state dicts, mappings of names to arrays, in an object that a program saved."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flaxblocks.checkpoints.error import quoted
from flaxblocks.checkpoints.inert import Inert
from flaxblocks.checkpoints.module_tree import attributes_of, is_module, state_of_module
from flaxblocks.checkpoints.numpy_array import NumpyArray
from flaxblocks.checkpoints.ranks import is_of_training
from flaxblocks.checkpoints.torch_tensor import Elsewhere, Storage, Tensor
from flaxblocks.checkpoints.window import Text, Window

__all__ = ["Found", "described", "dimensions_of", "find", "kind_of", "needs_unknown"]

DEEPEST = 4
CONTAINERS = (Mapping, Inert, list, tuple)
MOST_ENTRIES = 1_000_000  # to visit in all, since a file can refer to one mapping many times


@dataclass(frozen=True)
class Found:
    """A mapping that holds arrays.

    Attributes:
        path: the keys that lead to it.
        entries: the arrays by key; keys that are not strings are still included.
        others: its other entries.
    """

    path: tuple[str, ...]
    entries: dict[Any, Any]
    others: dict[Any, Any]


def find(saved: object) -> list[Found]:
    """Every mapping, at most `DEEPEST` keys deep, with an array of one or more dimensions; at the
    top also one that holds nothing but arrays without dimensions.

    In a list or tuple the keys are the indices. The states of optimisers, schedulers and the like
    are skipped.
    """
    found: list[Found] = []
    work = 0
    level: list[tuple[tuple[str, ...], object]] = [((), saved)]
    while level:
        deeper: list[tuple[tuple[str, ...], object]] = []
        for path, value in level:
            mapping = _as_mapping(value)
            if mapping is None or work > MOST_ENTRIES:
                continue
            work += len(mapping) + 100
            found += _state_dict_in(path, mapping)
            if len(path) < DEEPEST and not is_module(value) and "param_groups" not in mapping:
                deeper += [((*path, key), inner) for key, inner in _inner(mapping)]
        level = deeper
    return found


def _as_mapping(value: object) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if is_module(value):
        return state_of_module(value)
    if isinstance(value, list | tuple):
        return {str(i): inner for i, inner in enumerate(value) if _is_plain(inner)}
    if isinstance(value, Inert):
        return value.items if value.items is not None else attributes_of(value)
    return None


def _is_plain(value: object) -> bool:
    """Whether it may hold a network; the arrays of any other object in a list are its own."""
    return isinstance(value, Mapping | list | tuple) or is_module(value)


def _inner(mapping: Mapping[Any, Any]) -> Iterator[tuple[str, object]]:
    for key, value in mapping.items():
        if isinstance(key, str) and isinstance(value, CONTAINERS) and not is_of_training(key):
            yield key, value


def _state_dict_in(path: tuple[str, ...], mapping: Mapping[Any, Any]) -> list[Found]:
    sizes = {key: dimensions_of(value) for key, value in mapping.items()}
    entries = {key: value for key, value in mapping.items() if sizes[key] is not None}
    others = {key: value for key, value in mapping.items() if sizes[key] is None}
    # Scalars alone may be weights at the top; deeper they are scores.
    alone = entries and not others and not path
    weights = alone or any(size for size in sizes.values() if size)
    return [Found(path, entries, others)] if weights else []


def dimensions_of(value: Any) -> int | None:
    """The number of dimensions of an array; None for anything else."""
    if isinstance(value, Elsewhere):
        value = value.tensor
    if isinstance(value, Tensor):
        return len(value.shape)
    if isinstance(value, NumpyArray):
        known = value.holds_numbers and isinstance(value.shape, tuple)
        return len(value.shape) if known else None  # type: ignore[arg-type]
    if isinstance(value, Inert):
        return 1 if needs_unknown(value) else None
    shape = getattr(value, "shape", None)
    return len(shape) if isinstance(shape, tuple) and not isinstance(value, Mapping) else None


def needs_unknown(value: object) -> bool:
    """Whether a value is a tensor that only an unknown function can make."""
    return isinstance(value, Inert) and any(
        isinstance(argument, Tensor | Storage) for argument in value.arguments[:8]
    )


def described(saved: object) -> str:
    """A short description of an unpickled object, without its values."""
    if isinstance(saved, Mapping):
        shown = [f"{_name(key)} ({kind_of(value)})" for key, value in list(saved.items())[:8]]
        more = f" and {len(saved) - 8} more" if len(saved) > 8 else ""
        return f"a dict of {', '.join(shown)}{more}" if shown else "an empty dict"
    return f"a {kind_of(saved)}"


def _name(key: object) -> str:
    return quoted(key, 40) if isinstance(key, str) else kind_of(key)


def kind_of(value: object) -> str:
    """The type of a value in a few words."""
    if isinstance(value, Inert):
        return quoted(value.name, 60)[1:-1]
    if isinstance(value, Mapping):
        tensors = sum(dimensions_of(inner) is not None for inner in value.values())
        return f"dict with {tensors} tensors" if tensors else "dict"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, NumpyArray):
        return "NumPy array"
    if isinstance(value, Text):
        return "str"
    return "bytes" if isinstance(value, Window) else type(value).__name__.lower()
