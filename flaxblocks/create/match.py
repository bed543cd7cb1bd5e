"""Matching a checkpoint with a model: which of its networks, in which layout, with which head.

    contents = contents_of("weights.pth")                   # read
    found = match(entry, config, contents)                  # match
    model, report = pour(found, contents)                   # fill, and draw the rest

The search happens only here: `create_model`, `predict`, `verify` and `convert` all use one `Match`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from flax import nnx

from flaxblocks.checkpoints.contents import Contents
from flaxblocks.convert.fit import Fit, against
from flaxblocks.convert.keymap import NATIVE, Entry, key_map, key_maps, variables_of
from flaxblocks.convert.stem import RGB, adapt_input_channels
from flaxblocks.create.build import ANY_KEYS, DEFAULT_CLASSES, Draws, Keys, abstract, build
from flaxblocks.create.head_names import HEAD
from flaxblocks.create.heads import Head
from flaxblocks.create.places import Choice, Place, find_place
from flaxblocks.create.rows import row_in, said_by_config, said_by_layout
from flaxblocks.create.siblings import head_beside
from flaxblocks.models.registry import ModelEntry

__all__ = ["Match", "match", "unread_by"]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Match:
    """A checkpoint matched with a registry row.

    Attributes:
        entry: the row to build: the requested one, or that of the same network in the checkpoint's
            library.
        config: the arguments of the model, including `num_classes` and `in_channels`.
        model: the abstract model.
        draws: the random draws that building `model` would have made.
        variables: the variables of `model`, by native path.
        place: where the network is in the checkpoint.
        head: what the checkpoint has as a head.
        found: `arrays`, compared with the key map of the model.
        arrays: the arrays to fill the model with, by the layout's names.
        in_channels: the input channels of the checkpoint; None if it has no first convolution.
        keys: random stream -> key, of `model`.
        asked: the requested row.
        decided: arguments that come from the checkpoint's `config.json` or layout, not the caller.
        by: phrase that says which of the two.
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
        """The layout of the checkpoint."""
        return self.found.keys.layout

    @property
    def draws_head(self) -> bool:
        """Whether the model has a head for which the checkpoint has no arrays."""
        return bool(self.config["num_classes"]) and not set(self.head.keys) & set(self.arrays)

    @property
    def faults(self) -> Fit:
        """`found` without the missing keys that are no fault: those of a head that is drawn, and
        of variables that are not kept.
        """
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
    layout: str | None = None,
) -> Match:
    """Match a checkpoint with a registry row. A checkpoint that does not fit is refused only later,
    by `refuse.check`.

    Args:
        entry: the requested row.
        config: arguments of the model. If `num_classes` is absent or None, it is that of the
            checkpoint; if the checkpoint has another number or another head, the head will be drawn
            at random.
        contents: the checkpoint.
        choice: which network of the checkpoint to take.
        keys: random stream -> key, of the abstract model.
        features: build a model without a head for a checkpoint without one.
        layout: the checkpoint's layout, if it is known; by default every one is tried.

    Raises: ValueError for an argument that the model does not have or that is out of range, or a
        layout that it does not have; CheckpointError if the checkpoint has nothing under the chosen
        key or prefix; ConversionError if it holds several networks of equal rank, or no name that
        `drop` matches.
    """
    asked, given = entry, {"in_channels": RGB, **config}
    entry, config = said_by_config(asked, given, contents.settings)
    wanted = config.get("num_classes")
    model, draws = _abstract(entry, {**config, "num_classes": wanted or DEFAULT_CLASSES}, keys)
    variables = variables_of(model)
    maps = key_maps(model, variables) if layout is None else [key_map(model, layout)]
    place, head = head_beside(find_place(contents, maps, HEAD, choice), contents, choice)
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
    if is_whole or (head.kind == "part" and wanted is None):  # the rest of a part is missing
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
    """The variables of a match's model that `extractor` removes."""
    extracted = extractor(_abstract(found.entry, found.config, found.keys)[0])
    kept = {path.partition(".")[2] for path in variables_of(extracted)}
    return frozenset(found.variables) - kept


def _abstract(entry: ModelEntry, config: Mapping[str, Any], keys: Keys) -> tuple[Any, Draws]:
    return abstract(partial(build, entry, config, keys))


def _without(arrays: Arrays, head: Head) -> Arrays:
    """The arrays of a network without those of a head."""
    names = {*head.names, *head.keys}
    return {name: array for name, array in arrays.items() if name not in names}


def _channels(stem: Entry | None, arrays: Arrays, layout: str) -> int | None:
    """The input channels of the checkpoint's first convolution; None if it has none."""
    kernel = None if stem is None else arrays.get(stem.foreign)
    if kernel is None or kernel.ndim != 4:
        return None
    return kernel.shape[2 if layout == NATIVE else 1]


def _adapted(stem: Entry, kernel: np.ndarray) -> np.ndarray:
    """A kernel for RGB images, adapted to the channels of `stem`."""
    height, width, channels, features = stem.shape
    rgb = replace(stem, shape=(height, width, RGB, features))
    if kernel.shape != rgb.foreign_shape:
        return kernel
    return stem.to_foreign(adapt_input_channels(rgb.to_native(kernel), channels))
