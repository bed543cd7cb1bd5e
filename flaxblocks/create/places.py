"""Where in a checkpoint a network lies: which state dict, which prefix, which layout."""

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flaxblocks.checkpoints.choose import chosen, under
from flaxblocks.checkpoints.contents import Contents, StateDict
from flaxblocks.checkpoints.ranks import rank
from flaxblocks.convert.fit import ConversionError, Fit, against
from flaxblocks.convert.keymap import KeyMap
from flaxblocks.create.source import arrays_of

__all__ = ["Choice", "Place", "find_place"]

Arrays = Mapping[str, np.ndarray]

# Words of a prefix: copies that are evaluated, and copies that are not.
EVALUATED = ("teacher", "ema", "averaged", "avg", "swa")
TRAINED_ALONG = ("student", "momentum", "encoder_k", "key_encoder", "target")
# The first words of what a training program keeps beside its network.
TRAINING_ONLY = re.compile(
    r"(.*_)?(criterion|loss|losses|loss_fn|loss_func|metrics?|acc|accuracy|auroc|f1|confmat)"
    r"(_(fn|weights?|metrics?|collection|\d+))?|(train|val|valid|validation|test)_.*"
)
MOST_PREFIXES = 8
FEWEST_COMMON = 0.9  # of a body's names that may be absent from a place that is near it


@dataclass(frozen=True)
class Choice:
    """What a user says of the network to take from a checkpoint; nothing by default.

    Attributes:
        key: of the state dict, as `model_ema`; dotted where it lies deeper.
        prefix: of the network's names, as `backbone.`.
        ema: whether to take averaged weights; None takes them where there are any.
        drop: names to leave out, each with all below it, or patterns such as `*.num_updates`.
    """

    key: str | None = None
    prefix: str | None = None
    ema: bool | None = None
    drop: Iterable[str] = ()

    def __post_init__(self) -> None:
        """One name to drop may be given by itself."""
        dropped = (self.drop,) if isinstance(self.drop, str) else tuple(self.drop)
        object.__setattr__(self, "drop", dropped)

    @property
    def is_made(self) -> bool:
        """It was said which of several networks is meant."""
        return (self.key, self.prefix, self.ema) != (None, None, None)


@dataclass(frozen=True)
class Place:
    """A network in a checkpoint.

    Attributes:
        state: the state dict that it is in.
        prefix: of its names there, with the dot; "" for none.
        arrays: what lies there, by names without the prefix.
        found: that, held against the key map of the layout it is in.
        beside: names of the state dict that are not the network's: those outside of the prefix,
            what was dropped, what belongs to a loss or a metric.
        others: places of other networks with the same names, which were not taken.
        copies: places of this very network, with the same numbers.
    """

    state: StateDict
    prefix: str
    arrays: Arrays
    found: Fit
    beside: tuple[str, ...]
    others: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The place in words: `state_dict below 'backbone.'`; "" for the whole of a plain file."""
        key = f"`{self.state.key}`" if self.state.key else ""
        return " ".join(filter(None, [key, f"below {self.prefix!r}" if self.prefix else ""]))


@dataclass(frozen=True)
class _Region:
    """What of a state dict is searched, and what is not."""

    state: StateDict
    arrays: Arrays
    dropped: tuple[str, ...]


def find_place(
    contents: Contents, maps: Iterable[KeyMap], head: str, choice: Choice | None = None
) -> Place:
    """The network that a checkpoint holds, or what comes nearest to it.

    Of the places where all of its body lies the first by rank is taken: averaged weights before raw
    ones, a teacher before its student, a momentum encoder last.

    Args:
        contents: the checkpoint.
        maps: the key maps of the network's layouts, made one by one; no more are made than needed.
        head: native path of the head, which may be missing or another; "" if there is none.
        choice: what the user says.

    Raises: CheckpointError if there is no such key or prefix. ConversionError if several networks
        of the same rank have different numbers, or there is no such name to drop.
    """
    choice = choice or Choice()
    states = chosen(contents, key=choice.key, ema=choice.ema)
    regions = [_region(state, tuple(choice.drop), contents) for state in states]
    if choice.drop and not any(region.dropped for region in regions):
        raise ConversionError(f"`drop` (={list(choice.drop)}) names nothing of {contents.name}")
    ranked: list[tuple[tuple[int, ...], Place]] = []
    for keys in maps:
        body = {e.foreign for e in keys.entries if not (head and e.native.startswith(f"{head}."))}
        for position, region in enumerate(regions):
            for prefix in _prefixes(region, keys, choice.prefix):
                place = _place(region, prefix, keys)
                ranked.append((_order(place, body, position), place))
        if any(order[:3] == (0, 0, 0) and not place.found.faults for order, place in ranked):
            break  # none can fit better
    return _first(ranked, contents)


def _region(state: StateDict, drop: Sequence[str], contents: Contents) -> _Region:
    arrays = arrays_of(state, contents)
    dropped = {name for name in arrays if any(_names(pattern, name) for pattern in drop)}
    kept = {name: array for name, array in arrays.items() if name not in dropped}
    return _Region(state, kept, tuple(name for name in state.arrays if name in dropped))


def _names(pattern: str, name: str) -> bool:
    pattern = pattern.rstrip(".")
    return f"{name}.".startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)


def _prefixes(region: _Region, keys: KeyMap, prefix: str | None) -> Iterator[str]:
    """Under what the names of a layout lie, most names first; "" in any case."""
    if prefix is not None:
        yield f"{prefix.rstrip('.')}." if prefix.rstrip(".") else ""
        return
    known = keys.by_foreign
    counts: Counter[str] = Counter({"": sum(name in known for name in region.arrays)})
    if all("." in key for key in known):  # a lone layer's name is everywhere
        for name in region.arrays:
            start = name.find(".") + 1
            while start:
                if name[start:] in known:
                    counts[name[:start]] += 1
                start = name.find(".", start) + 1
    # Below a prefix with half of the names lies such a network, if a damaged one.
    near = [found for found, count in counts.items() if 2 * count > len(known) or not found]
    yield from sorted(near, key=lambda found: -counts[found])[:MOST_PREFIXES]


def _place(region: _Region, prefix: str, keys: KeyMap) -> Place:
    arrays = under(region.arrays, prefix) if prefix else region.arrays
    beside = [name for name in region.arrays if not name.startswith(prefix)]
    training = {name for name in arrays if name not in keys.by_foreign and _is_of_training(name)}
    if training:
        arrays = {name: array for name, array in arrays.items() if name not in training}
        beside += [f"{prefix}{name}" for name in training]
    return Place(region.state, prefix, arrays, against(keys, arrays), (*beside, *region.dropped))


def _is_of_training(name: str) -> bool:
    owner, dot, _ = name.partition(".")
    return bool(dot) and TRAINING_ONLY.fullmatch(owner) is not None


def _order(place: Place, body: set[str], position: int) -> tuple[int, ...]:
    """Smaller is better: a whole body first, by the rank of its place and by what is left over;
    else the fewest faults. A few names in common say nothing.
    """
    absent = sum(key in body for key in place.found.missing)
    misshaped = sum(key in body for key, _, _ in place.found.misshaped)
    found, prefix = place.found, bool(place.prefix)
    if absent > FEWEST_COMMON * len(body):
        return 2, 0, 0, position, prefix, 0
    if absent or misshaped > 1:  # one is the first convolution, for images of other channels
        return 1, found.faults, misshaped, position, prefix, 0
    over = found.faults + len(place.beside)
    return 0, misshaped, position, _rank(place.prefix), over, prefix


def _rank(prefix: str) -> int:
    """0 for a copy that is evaluated, 1 for a network of no such name, 2 for one trained along."""
    words = re.split(r"[._]", prefix.lower())
    if any(word in words for word in EVALUATED):
        return 0
    return 2 if any(word in prefix.lower() for word in TRAINED_ALONG) else 1


def _first(ranked: Sequence[tuple[tuple[int, ...], Place]], contents: Contents) -> Place:
    """The best place, with the names of the others that hold such a network."""
    best_order, best = min(ranked, key=lambda item: item[0])
    if best_order[0]:
        return best
    found: dict[tuple[str, str], tuple[tuple[int, ...], Place]] = {}
    for order, place in ranked:
        where = place.state.key, place.prefix
        if order[0] == 0 and where != (best.state.key, best.prefix):
            found.setdefault(where, (order, place))
    others, copies = [], []
    for order, place in found.values():
        if _equal(place, best):
            copies.append(place.name or "the rest")
            continue
        others.append(place.name or "the rest")
        if order[1:4] == best_order[1:4] or _of_one_rank(place.state, best.state):
            raise ConversionError(
                f"{contents.name} holds several networks, and nothing says which one is meant: "
                f"{best.name} and {place.name}; `key` or `prefix` names one"
            )
    return replace(best, others=tuple(others), copies=tuple(copies))


def _of_one_rank(one: StateDict, other: StateDict) -> bool:
    ranks = [rank(tuple(state.key.split(".")), state.averaged, 0) for state in (one, other)]
    return one.key != other.key and ranks[0] == ranks[1]


def _equal(one: Place, other: Place) -> bool:
    """Both have the same numbers."""
    return all(
        key not in other.arrays or np.array_equal(array, other.arrays[key], equal_nan=True)
        for key, array in one.arrays.items()
    )
