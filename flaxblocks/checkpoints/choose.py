"""Selecting a state dict in a checkpoint, and a network within a state dict."""

import fnmatch
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

from flaxblocks.checkpoints.contents import Contents, StateDict
from flaxblocks.checkpoints.error import CheckpointError, quoted

__all__ = ["chosen", "named_by", "under"]

Value = TypeVar("Value")


def chosen(
    contents: Contents, *, key: str | None = None, ema: bool | None = None
) -> tuple[StateDict, ...]:
    """The state dicts that match the arguments, best first.

    Args:
        contents: the contents of a checkpoint.
        key: key of a state dict: its full dotted path; else the end of the path, if only one ends
            so; else the beginning, of which the best state dict is taken.
        ema: True for averaged weights only, False for raw ones only.

    Raises: CheckpointError listing the available state dicts, if none matches.
    """
    states = contents.state_dicts if key is None else _under_key(contents, key)
    kept = tuple(state for state in states if ema is None or state.averaged == ema)
    if not kept:
        kind = "averaged" if ema else "raw"
        raise CheckpointError(f"{contents.name} holds no {kind} weights: {_told(states)}")
    return kept


def _under_key(contents: Contents, key: str) -> tuple[StateDict, ...]:
    states = contents.state_dicts
    exact = [state for state in states if state.key == key]
    ends = [state for state in states if state.key.endswith(f".{key}")]
    begins = [state for state in states if state.key.startswith(f"{key}.")]
    found = exact[:1] or ends or begins[:1]
    if len(found) == 1:
        return tuple(found)
    many = "several state dicts" if found else "no state dict"
    raise CheckpointError(f"{contents.name} holds {many} under {quoted(key)}: {_told(states)}")


def _told(states: tuple[StateDict, ...]) -> str:
    words = [
        f"{quoted(state.key, 60)} ({'averaged, ' * state.averaged}{len(state.arrays)} arrays)"
        for state in states[:8]
    ]
    more = f" and {len(states) - 8} more" if len(states) > 8 else ""
    return f"it holds {', '.join(words)}{more}"


def named_by(patterns: Collection[str], names: Iterable[str]) -> frozenset[str]:
    """The names that any of the patterns matches: a plain name matches itself and all names below
    it, and a pattern such as `*.num_updates` the names that fit it.
    """
    starts = tuple(f"{pattern.rstrip('.')}." for pattern in patterns)
    return frozenset(
        name
        for name in names
        if f"{name}.".startswith(starts)
        or any(fnmatch.fnmatchcase(name, pattern.rstrip(".")) for pattern in patterns)
    )


def under(arrays: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """The arrays whose names have a prefix, under their names without it.

    Args:
        arrays: arrays by name.
        prefix: "backbone." or "backbone"; an empty prefix matches every name.

    Raises: CheckpointError listing similar prefixes, if no name has this one.
    """
    start = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    found = {
        name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)
    }
    if found:
        return found
    parts = [name.split(".") for name in arrays]
    prefixes = {".".join(p[:depth]) for p in parts for depth in range(1, min(len(p), 5))}
    near = get_close_matches(start[:-1], prefixes, n=3, cutoff=0.5)
    near = near or list(dict.fromkeys(p[0] for p in parts))[:3]
    shown = ", ".join(quoted(f"{name}.", 60) for name in near)
    raise CheckpointError(f"no name begins with {quoted(start)}; similar: {shown or 'none'}")
