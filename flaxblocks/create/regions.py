"""What of a state dict is searched for a network, and under which beginnings of its names."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from flaxblocks.checkpoints.choose import named_by
from flaxblocks.checkpoints.contents import Contents, StateDict
from flaxblocks.convert.keymap import KeyMap
from flaxblocks.create.source import arrays_of

__all__ = ["Region", "Start", "region_of", "starts", "unwrapped", "without_wrappers"]

MOST_STARTS = 8
NEXT_TO_ALL = 0.9
WRAPPER = "module"  # what `DataParallel` and `AveragedModel` call what they wrap


@dataclass(frozen=True)
class Region:
    """What of a state dict is searched, and what is not.

    Attributes:
        state: the state dict, without what is dropped.
        arrays: its arrays, batch counts as PyTorch reads them.
        dropped: the names that a user leaves out.
    """

    state: StateDict
    arrays: Mapping[str, np.ndarray]
    dropped: tuple[str, ...]


class Start(NamedTuple):
    """What a network's names begin with in a checkpoint, and what they do in a layout instead."""

    prefix: str
    within: str = ""


def region_of(state: StateDict, drop: Sequence[str], contents: Contents) -> Region:
    """A state dict without what is dropped."""
    arrays = arrays_of(state, contents)
    left_out = named_by(drop, arrays)
    kept = {name: array for name, array in arrays.items() if name not in left_out}
    dropped = tuple(name for name in arrays if name in left_out)
    return Region(replace(state, arrays=kept), kept, dropped)


def unwrapped(region: Region) -> Region | None:
    """The region without `module` in the middle of names, where a part of a network was wrapped;
    None if there is none, or if names would become equal.
    """
    arrays = {without_wrappers(name): array for name, array in region.arrays.items()}
    if len(arrays) < len(region.arrays) or arrays.keys() == region.arrays.keys():
        return None
    return Region(replace(region.state, arrays=arrays), arrays, region.dropped)


def without_wrappers(name: str) -> str:
    """`features.module.0.weight` -> `features.0.weight`."""
    return ".".join(step for step in name.split(".") if step != WRAPPER)


def starts(region: Region, keys: KeyMap, body: set[str], prefix: str | None) -> Iterator[Start]:
    """Under what the names of a layout lie, most names first; "" in any case.

    A program that takes `mobilenet_v2().features` for its encoder saves the body without that word:
    where a layout's body lies below one word, it is looked for without it too.
    """
    within = _main_word(body)
    if prefix is not None:
        given = f"{prefix.rstrip('.')}." if prefix.rstrip(".") else ""
        yield from (Start(given), *([Start(given, within)] if within else []))
        return
    known = keys.by_foreign
    counts: Counter[Start] = Counter({Start(""): sum(name in known for name in region.arrays)})
    if all("." in key for key in known):  # a lone layer's name is everywhere
        counts.update(start for name in region.arrays for start in _below(name, known, within))
    # Below a prefix with half of the names lies such a network, if a damaged one.
    near = [start for start, n in counts.items() if 2 * n > len(known) or start == Start("")]
    yield from sorted(near, key=lambda start: -counts[start])[:MOST_STARTS]


def _main_word(body: set[str]) -> str:
    """The first step, with its dot, of next to all of a body's names; "" if they differ in it."""
    ((word, count),) = Counter(name.partition(".")[0] for name in body).most_common(1) or [("", 0)]
    return f"{word}." if count > NEXT_TO_ALL * len(body) else ""


def _below(name: str, known: Mapping[str, object], within: str) -> Iterator[Start]:
    """Each beginning of a name after which one of the layout's follows."""
    start = 0
    while start or name:
        prefix, rest = name[:start], name[start:]
        if prefix and rest in known:
            yield Start(prefix)
        if within and f"{within}{rest}" in known and not prefix.endswith(within):
            yield Start(prefix, within)
        start = name.find(".", start) + 1
        if not start:
            return
