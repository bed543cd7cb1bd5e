"""One search for all that load a checkpoint: which network of it, in which layout, with which head.

    contents = contents_of("weights.pth")                   # read
    found = match(entry, config, contents)                  # recognise
    model, report = pour(found)                             # fill, and draw the rest

Nothing after this searches: `create_model`, `predict`, `verify` and `convert` take the one `Match`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from flax import nnx

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.convert.fit import Fit, against
from flaxblocks.convert.keymap import NATIVE, Entry, key_maps, variables_of
from flaxblocks.convert.stem import RGB, adapt_input_channels
from flaxblocks.create.build import ANY_KEYS, DEFAULT_CLASSES, Draws, Keys, abstract, build
from flaxblocks.create.head_names import HEAD
from flaxblocks.create.heads import Head, find_head
from flaxblocks.create.places import Choice, Place, find_place
from flaxblocks.create.rows import row_in, said_by_config, said_by_layout
from flaxblocks.models.registry import ModelEntry

__all__ = ["Match", "match", "unread_by"]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Match:
    """A checkpoint held against a registry row.

    Attributes:
        entry: the row to build: the one asked for, or the one that the checkpoint's library
            published.
        config: the arguments of the model, classes and channels among them.
        model: that model, abstract.
        draws: what `model` would have drawn.
        variables: those of `model`, by native path.
        place: where the network lies in the checkpoint.
        head: what the checkpoint has for a head.
        found: what is poured into the model, held against its key map.
        arrays: that, by the layout's names.
        in_channels: of the checkpoint; None where it has no kernel that sees the image.
        keys: random stream -> key, of `model`.
        asked: the row that was asked for.
        decided: arguments that the checkpoint's `config.json` or layout says, and the caller not.
        by: which of the two that was, in words.
        unread: variables that the caller will not keep, so that they may be missing.
    """

    entry: ModelEntry
    config: Mapping[str, Any]
    model: Any
    draws: Draws
    variables: Mapping[str, nnx.Variable]
    place: Place
    head: Head
    found: Fit
    arrays: Arrays
    in_channels: int | None
    keys: Keys
    asked: ModelEntry
    decided: Mapping[str, Any]
    by: str
    unread: frozenset[str] = frozenset()

    @property
    def layout(self) -> str:
        """Whose naming the checkpoint is in."""
        return self.found.keys.layout

    @property
    def draws_head(self) -> bool:
        """The model has a head, and the checkpoint none for it."""
        return bool(self.config["num_classes"]) and not set(self.head.keys) & set(self.arrays)

    @property
    def faults(self) -> Fit:
        """What does not add up; a head that is drawn is not missing, nor what is not read."""
        drawn = set(self.head.keys) if self.draws_head else set()
        natives = self.found.keys.by_foreign
        drawn |= {key for key in self.found.missing if natives[key].native in self.unread}
        missing = tuple(key for key in self.found.missing if key not in drawn)
        return replace(self.found, missing=missing)


def match(
    entry: ModelEntry,
    config: Mapping[str, Any],
    contents: Contents,
    choice: Choice | None = None,
    keys: Keys = ANY_KEYS,
    *,
    features: bool = False,
) -> Match:
    """Hold a checkpoint against a registry row. Nothing is refused but the arguments: `refuse.py`
    says what does not fit.

    Args:
        entry: the row asked for.
        config: arguments of the model. Without `num_classes`, or with None, as many as the
            checkpoint has; where it has another number, or another head, the head is left to be
            drawn.
        contents: the checkpoint.
        choice: which of several networks in it.
        keys: random stream -> key, of the abstract model.
        features: take a checkpoint without a head for one of a model without one.

    Raises: ValueError for an argument that the model has not, or one out of range; CheckpointError
        if the checkpoint holds nothing of the chosen key or prefix; ConversionError if it holds
        several networks and nothing says which is meant.
    """
    asked, given = entry, {"in_channels": RGB, **config}
    entry, config = said_by_config(asked, given, contents.settings)
    wanted = config.get("num_classes")
    model, draws = _abstract(entry, {**config, "num_classes": wanted or DEFAULT_CLASSES}, keys)
    variables = variables_of(model)
    place = find_place(contents, key_maps(model, variables), HEAD, choice)
    head = find_head(place)
    row = row_in(entry, place.found.keys.layout)
    classes = wanted
    if classes is None:
        is_headless = features and head.kind == "absent"
        classes = 0 if is_headless else head.num_classes or DEFAULT_CLASSES
    known_of_layout = {} if contents.settings else said_by_layout(row, place.found.keys.layout)
    config = {**known_of_layout, **config, "num_classes": classes}
    if row is not entry or model.num_classes != classes or known_of_layout:
        model, draws = _abstract(row, config, keys)
        variables = variables_of(model)
    known = place.found.keys.reshaped(variables)
    arrays = _without(place.arrays, head)
    is_whole = head.kind in ("own", "renamed") and classes == head.num_classes
    if is_whole or (head.kind == "part" and wanted is None):  # then what it lacks is missing
        arrays = {**arrays, **head.arrays}
    stem = next((e for e in known.entries if e.native == f"{model.first_conv}.kernel"), None)
    channels = _channels(stem, arrays, known.layout)
    if stem is not None and channels == RGB != config["in_channels"]:
        arrays = {**arrays, stem.foreign: _adapted(stem, arrays[stem.foreign])}
    found = against(known, arrays)
    decided = {name: config[name] for name in config if name not in (*given, "num_classes")}
    by = "its config.json says" if contents.settings else f"layout {known.layout!r} has it"
    built = row, config, model, draws, variables
    return Match(*built, place, head, found, arrays, channels, keys, asked, decided, by)


def unread_by(found: Match, extractor: Callable[[Any], nnx.Module]) -> frozenset[str]:
    """The variables of a match's model that `extractor` leaves out of it."""
    extracted = extractor(_abstract(found.entry, found.config, found.keys)[0])
    kept = {path.partition(".")[2] for path in variables_of(extracted)}
    return frozenset(found.variables) - kept


def _abstract(entry: ModelEntry, config: Mapping[str, Any], keys: Keys) -> tuple[Any, Draws]:
    return abstract(partial(build, entry, config, keys))


def _without(arrays: Arrays, head: Head) -> Arrays:
    """The network's arrays but for what there is of a head."""
    names = {*head.names, *head.keys}
    return {name: array for name, array in arrays.items() if name not in names}


def _channels(stem: Entry | None, arrays: Arrays, layout: str) -> int | None:
    """Of the images that the checkpoint's first kernel sees."""
    kernel = None if stem is None else arrays.get(stem.foreign)
    if kernel is None or kernel.ndim != 4:
        return None
    return kernel.shape[2 if layout == NATIVE else 1]


def _adapted(stem: Entry, kernel: np.ndarray) -> np.ndarray:
    """A kernel for RGB as one for the channels of `stem`."""
    height, width, channels, features = stem.shape
    rgb = replace(stem, shape=(height, width, RGB, features))
    if kernel.shape != rgb.foreign_shape:
        return kernel
    return stem.to_foreign(adapt_input_channels(rgb.to_native(kernel), channels))
