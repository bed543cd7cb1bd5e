"""Finding a network in a checkpoint: its state dict, its prefix and its layout."""

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

# Words in a prefix: of copies that are evaluated, and of copies that are not.
EVALUATED = ("teacher", "ema", "averaged", "avg", "swa")
TRAINED_ALONG = ("student", "momentum", "encoder_k", "key_encoder", "target")
# First components of names that belong to a training program, not to its network.
TRAINING_ONLY = re.compile(
    r"(.*_)?(criterion|loss|losses|loss_fn|loss_func|metrics?|acc|accuracy|auroc|f1|confmat)"
    r"(_(fn|weights?|metrics?|collection|\d+))?|(train|val|valid|validation|test)_.*"
)
FEWEST_COMMON = 0.9  # a place that lacks more of a body's names is not near it


@dataclass(frozen=True)
class Choice:
    """A user's choice of the network to take from a checkpoint; none by default.

    Attributes:
        key: key of the state dict, such as "model_ema"; a dotted path if nested.
        prefix: prefix of the network's names, such as "backbone.".
        ema: whether to take averaged weights; None takes them if there are any.
        drop: names to ignore, each with all names below it, or patterns such as `*.num_updates`.
    """

    key: str | None = None
    prefix: str | None = None
    ema: bool | None = None
    drop: Iterable[str] = ()

    def __post_init__(self) -> None:
        """Check the types, and make a tuple of `drop`, which may be a single name.

        Raises: ValueError for a value of another type.
        """
        for name, value in (("key", self.key), ("prefix", self.prefix)):
            if not isinstance(value, str | None):
                raise ValueError(f"`{name}` (={value!r}) must be a name in the checkpoint")
        if not isinstance(self.ema, bool | None):
            raise ValueError(f"`ema` (={self.ema!r}) must be True, False or None")
        if not isinstance(self.drop, Iterable):
            raise ValueError(f"`drop` (={self.drop!r}) must be names in the checkpoint")
        dropped = (self.drop,) if isinstance(self.drop, str) else tuple(self.drop)
        object.__setattr__(self, "drop", dropped)

    @property
    def is_made(self) -> bool:
        """Whether it selects one of several networks."""
        return (self.key, self.prefix, self.ema) != (None, None, None)


@dataclass(frozen=True)
class Place:
    """A network in a checkpoint.

    Attributes:
        state: the state dict that contains it.
        prefix: the prefix of its names there, including the dot; "" for none.
        arrays: the arrays below the prefix, under the layout's names.
        found: `arrays`, compared with the key map of the layout.
        within: a prefix of the layout's names that the names below `prefix` lack, such as
            `features.` if a program has only that part of torchvision's network, under a name of
            its own.
        beside: the other names of the state dict: those without the prefix, those that were
            dropped, and those of a loss or metric.
        others: places of other networks with the same names, which were not taken.
        copies: places of identical copies of this network.
        joined: the keys of the state dicts that `state` was joined from, if it was.
    """

    state: StateDict
    prefix: str
    arrays: Arrays
    found: Fit
    beside: tuple[str, ...]
    within: str = ""
    others: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A description such as "`model` below 'backbone.'"; "" for a whole plain state dict."""
        key = f"`{self.state.key}`" if self.state.key else ""
        return " ".join(filter(None, [key, f"below {self.prefix!r}" if self.prefix else ""]))

    def own_name(self, name: str) -> str:
        """The name in the state dict of a name in `arrays`."""
        return f"{self.prefix}{name.removeprefix(self.within)}"


def find_place(
    contents: Contents, maps: Iterable[KeyMap], head: str, choice: Choice | None = None
) -> Place:
    """Find the network in a checkpoint, or what comes nearest to it.

    Among the places that contain its whole body, the one with the best rank is taken: averaged
    weights before raw ones, a teacher before its student, a momentum encoder last.

    Args:
        contents: the checkpoint.
        maps: the key maps of the network's layouts; an iterator is consumed only as far as needed.
        head: native path of the head, which may be missing or different; "" if there is none.
        choice: the user's choice.

    Raises: CheckpointError if there is no such key or prefix. ConversionError if several networks
        of the same rank have different numbers, or `drop` matches no name.
    """
    choice = choice or Choice()
    states = chosen(contents, key=choice.key, ema=choice.ema)
    regions = [region_of(state, tuple(choice.drop), contents) for state in states]
    if choice.drop and not any(region.dropped for region in regions):
        raise ConversionError(f"`drop` (={list(choice.drop)}) matches no name in {contents.name}")
    made: list[KeyMap] = []
    ranked = _ranked(regions, _kept(maps, made), head, choice.prefix)
    if not _is_found(ranked) and (bare := list(filter(None, map(unwrapped, regions)))):
        prefix = None if choice.prefix is None else without_wrappers(choice.prefix)
        again = _ranked(bare, made, head, prefix)
        ranked = again if _is_found(again) else ranked
    return _first(ranked, contents)


def _is_found(ranked: Iterable[tuple[Order, Place]]) -> bool:
    """Whether one of the places contains a whole body."""
    return any(order[0] == 0 for order, _ in ranked)


def _kept(maps: Iterable[KeyMap], made: list[KeyMap]) -> Iterator[KeyMap]:
    """The maps, each appended to `made` as it is made."""
    for keys in maps:
        made.append(keys)
        yield keys


def _ranked(
    regions: Sequence[Region], maps: Iterable[KeyMap], head: str, prefix: str | None
) -> list[tuple[Order, Place]]:
    """Every candidate place, with its order."""
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
    """The layout's name of every array below a start -> its name in the state dict."""
    prefix, within = start
    below = under(region.arrays, prefix)
    if within and not prefix:  # without a prefix, leave out the rest of the state dict
        inner = (key.removeprefix(within) for key in keys.by_foreign if key.startswith(within))
        firsts = {name.partition(".")[0] for name in inner}
        below = {name: array for name, array in below.items() if name.partition(".")[0] in firsts}
    return {f"{within}{name}": f"{prefix}{name}" for name in below}


def _is_of_training(name: str) -> bool:
    owner, dot, _ = name.partition(".")
    return bool(dot) and TRAINING_ONLY.fullmatch(owner) is not None


def _order(place: Place, body: set[str], position: int) -> Order:
    """The order of a place; smaller is better.

    Whole bodies come first, ordered by the rank of the place, then by names that are not part of
    such a network and by names that are left over; then incomplete bodies, by the number of faults;
    last, places with only a few names in common.
    """
    absent = sum(key in body for key in place.found.missing)
    misshaped = sum(key in body for key, _, _ in place.found.misshaped)
    found, prefix, bare = place.found, bool(place.prefix), bool(place.within)
    if absent > FEWEST_COMMON * len(body):
        return 2, 0, 0, position, bare, prefix
    if absent or misshaped > 1:  # one may be a first convolution for other channels
        return 1, found.faults, misshaped, position, bare, prefix
    head = within_head(found.keys, body)
    strange = sum(not name.startswith(head) for name in found.unexpected)
    over = found.faults + len(place.beside)
    return 0, misshaped, position, _rank(place.prefix), bare, strange, over, prefix


def _rank(prefix: str) -> int:
    """0 for a copy that is evaluated, 2 for one that is only trained along, 1 for any other."""
    words = re.split(r"[._]", prefix.lower())
    if any(word in words for word in EVALUATED):
        return 0
    return 2 if any(word in prefix.lower() for word in TRAINED_ALONG) else 1


def _first(ranked: Sequence[tuple[Order, Place]], contents: Contents) -> Place:
    """The best place, with the names of the other places that contain such a network."""
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
                f"{best.name} and {place.name}; select one with `key` or `prefix`"
            )
    return replace(best, others=tuple(others), copies=tuple(copies))


def _distinct(ranked: Iterable[tuple[Order, Place]]) -> list[tuple[Order, Place]]:
    """The places with a whole body, best first; each network once, in its best layout."""
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
    """The names in the state dict that belong to the network."""
    known = place.found.keys.by_foreign
    return {place.own_name(name) for name in place.arrays if name in known}


def _of_one_rank(one: StateDict, other: StateDict) -> bool:
    ranks = [rank(tuple(state.key.split(".")), state.averaged, 0) for state in (one, other)]
    return one.key != other.key and ranks[0] == ranks[1]


def _equal(one: Place, other: Place) -> bool:
    """Whether both have the same numbers under the same names."""
    return one.found.keys.layout == other.found.keys.layout and all(
        key not in other.arrays or np.array_equal(array, other.arrays[key], equal_nan=True)
        for key, array in one.arrays.items()
    )
