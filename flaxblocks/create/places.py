"""Where in a checkpoint a network lies: which state dict, which prefix, which layout."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flaxblocks.checkpoints.choose import chosen, under
from flaxblocks.checkpoints.contents import Contents, StateDict
from flaxblocks.checkpoints.ranks import rank
from flaxblocks.convert.fit import ConversionError, Fit, against
from flaxblocks.convert.keymap import KeyMap
from flaxblocks.create.head_names import body_of, within_head
from flaxblocks.create.regions import Region, Start, region_of, starts, unwrapped, without_wrappers

__all__ = ["Choice", "Place", "find_place"]

Arrays = Mapping[str, np.ndarray]
Order = tuple[int, ...]

# Words of a prefix: copies that are evaluated, and copies that are not.
EVALUATED = ("teacher", "ema", "averaged", "avg", "swa")
TRAINED_ALONG = ("student", "momentum", "encoder_k", "key_encoder", "target")
# The first words of what a training program keeps beside its network.
TRAINING_ONLY = re.compile(
    r"(.*_)?(criterion|loss|losses|loss_fn|loss_func|metrics?|acc|accuracy|auroc|f1|confmat)"
    r"(_(fn|weights?|metrics?|collection|\d+))?|(train|val|valid|validation|test)_.*"
)
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
        """One name to drop may be given by itself. Raises: ValueError for what is no name."""
        for name, value in (("key", self.key), ("prefix", self.prefix)):
            if not isinstance(value, str | None):
                raise ValueError(f"`{name}` (={value!r}) must be a name of the checkpoint's")
        if not isinstance(self.ema, bool | None):
            raise ValueError(f"`ema` (={self.ema!r}) must be True, False or None")
        if not isinstance(self.drop, Iterable):
            raise ValueError(f"`drop` (={self.drop!r}) must be names of the checkpoint's")
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
        within: what the layout's names begin with and those below the prefix do not: `features.`
            where a program has only that part of torchvision's network, under a name of its own.
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
    within: str = ""
    others: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The place in words: `state_dict below 'backbone.'`; "" for the whole of a plain file."""
        key = f"`{self.state.key}`" if self.state.key else ""
        return " ".join(filter(None, [key, f"below {self.prefix!r}" if self.prefix else ""]))

    def own_name(self, name: str) -> str:
        """What a name of `arrays` is in the state dict."""
        return f"{self.prefix}{name.removeprefix(self.within)}"


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
    regions = [region_of(state, tuple(choice.drop), contents) for state in states]
    if choice.drop and not any(region.dropped for region in regions):
        raise ConversionError(f"`drop` (={list(choice.drop)}) names nothing of {contents.name}")
    made: list[KeyMap] = []
    ranked = _ranked(regions, _kept(maps, made), head, choice.prefix)
    if not _is_found(ranked) and (bare := list(filter(None, map(unwrapped, regions)))):
        prefix = None if choice.prefix is None else without_wrappers(choice.prefix)
        again = _ranked(bare, made, head, prefix)
        ranked = again if _is_found(again) else ranked
    return _first(ranked, contents)


def _is_found(ranked: Iterable[tuple[Order, Place]]) -> bool:
    """A whole body lies in one of the places."""
    return any(order[0] == 0 for order, _ in ranked)


def _kept(maps: Iterable[KeyMap], made: list[KeyMap]) -> Iterator[KeyMap]:
    """The maps, each noted as it is made."""
    for keys in maps:
        made.append(keys)
        yield keys


def _ranked(
    regions: Sequence[Region], maps: Iterable[KeyMap], head: str, prefix: str | None
) -> list[tuple[Order, Place]]:
    """Every place that comes into question, with its order."""
    ranked: list[tuple[Order, Place]] = []
    for keys in maps:
        body = body_of(keys, head)
        for position, region in enumerate(regions):
            for start in starts(region, keys, body, prefix):
                place = _place(region, start, keys)
                ranked.append((_order(place, body, position), place))
        if any(order[:3] == (0, 0, 0) and not place.found.faults for order, place in ranked):
            break  # none can fit better
    return ranked


def _place(region: Region, start: Start, keys: KeyMap) -> Place:
    named = _named(region, start, keys)
    training = {name for name in named if name not in keys.by_foreign and _is_of_training(name)}
    arrays = {name: region.arrays[own] for name, own in named.items() if name not in training}
    own = {named[name] for name in arrays}
    beside = (*(name for name in region.arrays if name not in own), *region.dropped)
    return Place(region.state, start.prefix, arrays, against(keys, arrays), beside, start.within)


def _named(region: Region, start: Start, keys: KeyMap) -> dict[str, str]:
    """The layout's name of all that lies at a start -> its own in the state dict."""
    prefix, within = start
    below = under(region.arrays, prefix)
    if within and not prefix:  # what else is in the state dict is not below anything
        inner = (key.removeprefix(within) for key in keys.by_foreign if key.startswith(within))
        firsts = {name.partition(".")[0] for name in inner}
        below = {name: array for name, array in below.items() if name.partition(".")[0] in firsts}
    return {f"{within}{name}": f"{prefix}{name}" for name in below}


def _is_of_training(name: str) -> bool:
    owner, dot, _ = name.partition(".")
    return bool(dot) and TRAINING_ONLY.fullmatch(owner) is not None


def _order(place: Place, body: set[str], position: int) -> Order:
    """Smaller is better: a whole body first, by the rank of its place, by what is no part of such a
    network and by what is left over; else the fewest faults. A few names in common say nothing.
    """
    absent = sum(key in body for key in place.found.missing)
    misshaped = sum(key in body for key, _, _ in place.found.misshaped)
    found, prefix, bare = place.found, bool(place.prefix), bool(place.within)
    if absent > FEWEST_COMMON * len(body):
        return 2, 0, 0, position, bare, prefix
    if absent or misshaped > 1:  # one is the first convolution, for images of other channels
        return 1, found.faults, misshaped, position, bare, prefix
    head = within_head(found.keys, body)
    strange = sum(not name.startswith(head) for name in found.unexpected)
    over = found.faults + len(place.beside)
    return 0, misshaped, position, _rank(place.prefix), bare, strange, over, prefix


def _rank(prefix: str) -> int:
    """0 for a copy that is evaluated, 1 for a network of no such name, 2 for one trained along."""
    words = re.split(r"[._]", prefix.lower())
    if any(word in words for word in EVALUATED):
        return 0
    return 2 if any(word in prefix.lower() for word in TRAINED_ALONG) else 1


def _first(ranked: Sequence[tuple[Order, Place]], contents: Contents) -> Place:
    """The best place, with the names of the others that hold such a network."""
    best_order, best = min(ranked, key=lambda item: item[0])
    if best_order[0]:
        return best
    _, *found = _distinct(ranked)
    others, copies = [], []
    for order, place in found:
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


def _distinct(ranked: Iterable[tuple[Order, Place]]) -> list[tuple[Order, Place]]:
    """The places where a whole body lies, best first; each network once, in its best layout."""
    found: list[tuple[Order, Place]] = []
    taken: dict[str, set[str]] = {}
    for order, place in sorted(ranked, key=lambda item: item[0]):
        names = _own_names(place) if order[0] == 0 else set()
        of_state = taken.setdefault(place.state.key, set())
        if names and not names & of_state:
            found.append((order, place))
            of_state |= names
    return found


def _own_names(place: Place) -> set[str]:
    """The network's names in the state dict."""
    known = place.found.keys.by_foreign
    return {place.own_name(name) for name in place.arrays if name in known}


def _of_one_rank(one: StateDict, other: StateDict) -> bool:
    ranks = [rank(tuple(state.key.split(".")), state.averaged, 0) for state in (one, other)]
    return one.key != other.key and ranks[0] == ranks[1]


def _equal(one: Place, other: Place) -> bool:
    """Both have the same numbers, under the same names."""
    return one.found.keys.layout == other.found.keys.layout and all(
        key not in other.arrays or np.array_equal(array, other.arrays[key], equal_nan=True)
        for key, array in one.arrays.items()
    )
