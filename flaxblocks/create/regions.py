"""Which arrays of a state dict are searched for a network, and under which prefixes."""

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
WRAPPER = "module"  # the name that `DataParallel` and `AveragedModel` give to the wrapped module


@dataclass(frozen=True)
class Region:
    """The part of a state dict that is searched.

    Attributes:
        state: the state dict without the dropped names.
        arrays: its arrays, with batch counts as PyTorch reads them.
        dropped: the names that the user drops.
    """

    state: StateDict
    arrays: Mapping[str, np.ndarray]
    dropped: tuple[str, ...]


class Start(NamedTuple):
    """The prefix of a network's names in a checkpoint, and what the layout has instead of it."""

    prefix: str
    within: str = ""


def region_of(state: StateDict, drop: Sequence[str], contents: Contents) -> Region:
    """A state dict without the names that `drop` matches."""
    arrays = arrays_of(state, contents)
    left_out = named_by(drop, arrays)
    kept = {name: array for name, array in arrays.items() if name not in left_out}
    dropped = tuple(name for name in arrays if name in left_out)
    return Region(replace(state, arrays=kept), kept, dropped)


def unwrapped(region: Region) -> Region | None:
    """The region with `module` removed from the middle of names, where it is if a part of a network
    was wrapped; None if no name has it, or if names would become equal.
    """
    arrays = {without_wrappers(name): array for name, array in region.arrays.items()}
    if len(arrays) < len(region.arrays) or arrays.keys() == region.arrays.keys():
        return None
    return Region(replace(region.state, arrays=arrays), arrays, region.dropped)


def without_wrappers(name: str) -> str:
    """A name without its components `module`: `features.module.0.weight` -> `features.0.weight`."""
    return ".".join(step for step in name.split(".") if step != WRAPPER)


def starts(region: Region, keys: KeyMap, body: set[str], prefix: str | None) -> Iterator[Start]:
    """The prefixes under which names of a layout are found, those with most names first; always
    including "".

    A program that uses `mobilenet_v2().features` as its encoder saves the body without that word:
    if the body of a layout is below one word, it is also searched for without it.
    """
    within = _main_word(body)
    if prefix is not None:
        given = f"{prefix.rstrip('.')}." if prefix.rstrip(".") else ""
        yield from (Start(given), *([Start(given, within)] if within else []))
        return
    known = keys.by_foreign
    counts: Counter[Start] = Counter({Start(""): sum(name in known for name in region.arrays)})
    if all("." in key for key in known):  # names such as `weight`, of a lone layer, are everywhere
        counts.update(start for name in region.arrays for start in _below(name, known, within))
    # A prefix with half of the names has such a network, even if a damaged one.
    near = [start for start, n in counts.items() if 2 * n > len(known) or start == Start("")]
    yield from sorted(near, key=lambda start: -counts[start])[:MOST_STARTS]


def _main_word(body: set[str]) -> str:
    """The first component, with its dot, that almost all names of a body share; "" if none."""
    ((word, count),) = Counter(name.partition(".")[0] for name in body).most_common(1) or [("", 0)]
    return f"{word}." if count > NEXT_TO_ALL * len(body) else ""


def _below(name: str, known: Mapping[str, object], within: str) -> Iterator[Start]:
    """Each prefix of a name after which a name of the layout follows."""
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
