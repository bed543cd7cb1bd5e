"""From a registry row to a module: as its configuration says, or as a checkpoint needs it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx

from flaxblocks.convert.convert import load_torch
from flaxblocks.convert.fit import ConversionError, closest, fit
from flaxblocks.convert.keymap import NATIVE, Entry, key_map, layouts_of
from flaxblocks.convert.stem import RGB, adapt_input_channels
from flaxblocks.create.origin import remember
from flaxblocks.models.registry import ModelEntry, find_model, suggest
from flaxblocks.nn.init import make_rngs, undrawn

__all__ = ["DEFAULT_CLASSES", "Reading", "abstract_model", "build", "build_loaded", "read_as"]

DEFAULT_CLASSES = 1000
OTHERWISE_CALLED = {  # in torchvision or timm
    "pretrained": 'weights="DEFAULT"',
    "checkpoint_path": "weights=PATH",
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "drop_path_rate": "stochastic_depth",
    "stochastic_depth_prob": "stochastic_depth",
    "bn_eps": "norm_eps",
    "bn_momentum": "norm_momentum",
    "act_layer": "activation",
    "zero_init_residual": "zero_init_last",
    "groups": "cardinality",
    "width_per_group": "base_width",
}

Keys = Mapping[str, Any]  # random stream -> key
Arrays = Mapping[str, np.ndarray]
Draws = list[jax.ShapeDtypeStruct]  # of an abstract model, in order
ANY_KEYS: Keys = {"params": 0, "dropout": 0}


def build(entry: ModelEntry, config: Mapping[str, Any], keys: Keys) -> Any:
    """The module of a row, its parameters drawn from `keys`.

    Raises: ValueError for an argument that the model has not, or one out of range.
    """
    for argument in config:
        if argument not in entry.arguments:
            meant = OTHERWISE_CALLED.get(argument)
            if meant is None or meant.partition("=")[0] not in (*entry.arguments, "weights"):
                hint = suggest(argument, entry.arguments)
            else:
                hint = f": did you mean {meant}?"
            raise ValueError(f"{entry.name} takes no argument `{argument}`{hint}")
    model = entry.build(**{**entry.config, **config}, rngs=make_rngs(keys))
    told_by_row = not set(config) & set(entry.settings)  # what no checkpoint shows
    remember(
        model,
        row=entry.name if told_by_row else None,
        layout=entry.layout if entry.layout in layouts_of(model) else None,
    )
    return model


def abstract_model(name: str, **config: Any) -> Any:
    """The model without memory: shapes and dtypes in place of parameters and buffers, as
    `nnx.eval_shape` gives it. Random streams are real.

    Raises: ValueError as `create_model`.
    """
    return _abstract(partial(build, find_model(name), config, ANY_KEYS))[0]


def _abstract(drawn: Callable[[], nnx.Module]) -> tuple[Any, Draws]:
    with undrawn() as draws:
        return drawn(), draws


@dataclass(frozen=True)
class Reading:
    """A checkpoint held against a registry row.

    Attributes:
        entry: the row to build: the one asked for, or the one that the library of the checkpoint's
            layout published.
        layout: whose naming the checkpoint is in.
        head: the keys of the head, whether the checkpoint has them or not.
        num_classes: of the checkpoint; None where it has no head, or is of another model.
        first_conv: the key of the kernel that sees the image.
        in_channels: of the checkpoint; None where it has no such kernel.
        model: the abstract model that it was held against, of the row asked for.
        draws: what `model` would have drawn.
    """

    model: Any
    draws: Draws
    entry: ModelEntry
    layout: str
    head: tuple[str, ...]
    num_classes: int | None
    first_conv: str
    in_channels: int | None


def read_as(
    entry: ModelEntry, config: Mapping[str, Any], arrays: Arrays, keys: Keys = ANY_KEYS
) -> Reading:
    """What a checkpoint says of the model that it is one of.

    Args:
        entry: the row asked for.
        config: arguments of the model.
        arrays: the checkpoint.
        keys: random stream -> key, of the abstract model.

    Raises: ValueError for an argument that the model has not, or one out of range.
    """
    classes = config.get("num_classes")
    classes = DEFAULT_CLASSES if classes in (None, 0) else classes  # a model with a head, anyhow
    drawn = partial(build, entry, {**config, "num_classes": classes}, keys)
    model, draws = _abstract(drawn)
    found = closest(model, arrays).keys
    named = {item.native: item for item in found.entries}
    is_native = found.layout == NATIVE
    head, stem = named.get("head.kernel"), named.get(f"{model.first_conv}.kernel")

    def length(item: Entry | None, axis: int) -> int | None:
        array = None if item is None else arrays.get(item.foreign)
        return array.shape[axis] if array is not None and array.ndim > 1 else None

    return Reading(
        model,
        draws,
        find_model(entry.in_layout.get(found.layout, entry.name)),
        found.layout,
        tuple(item.foreign for item in found.entries if item.native.startswith("head.")),
        length(head, -1 if is_native else 0),
        "" if stem is None else stem.foreign,
        length(stem, 2 if is_native else 1),
    )


def build_loaded(
    entry: ModelEntry, config: Mapping[str, Any], keys: Keys, arrays: Mapping[str, np.ndarray]
) -> Any:
    """Build without drawing, fill from a checkpoint, and draw only what it leaves: a head of
    another width.

    Args:
        entry: the row.
        config: arguments of the model, `num_classes` and `in_channels` among them; None for as many
            classes as the checkpoint has. Where it has another number, or no head and the number is
            given, the head is drawn.
        keys: random stream -> key.
        arrays: the checkpoint. A stem for RGB is adapted to another number of channels.

    Raises: ConversionError if the checkpoint is not of this model.
    """
    asked, wanted = entry, config["num_classes"]
    found = read_as(asked, config, arrays, keys)
    entry = found.entry
    classes = (found.num_classes or DEFAULT_CLASSES) if wanted is None else wanted
    config = {**config, "num_classes": classes}
    drawn = partial(build, entry, config, keys)
    same = entry is asked and found.model.num_classes == classes
    model, draws = (found.model, found.draws) if same else _abstract(drawn)
    if found.in_channels == RGB != config["in_channels"]:
        arrays = _with_adapted_stem(arrays, found, entry, config)
    body = {key: array for key, array in arrays.items() if key not in found.head}
    cut = len(arrays) - len(body) not in (0, len(found.head))  # a part of the head is there
    if cut or (found.num_classes is not None and wanted in (None, found.num_classes)):
        load_torch(model, arrays)
    else:
        fit(abstract_model(entry.name, **{**config, "num_classes": 0}), body)  # must still add up
        if wanted is None:
            raise ConversionError(
                f"the checkpoint is one of {entry.name} without {' and '.join(found.head)}: "
                "`num_classes=0` gives its features, another number draws a head"
            )
        load_torch(model, body, found.layout, strict=False)
    _draw_the_rest(model, draws, drawn)
    return model


def _with_adapted_stem(
    arrays: Arrays, found: Reading, entry: ModelEntry, config: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The checkpoint with a first convolution for the channels of `config`."""
    rgb, own = (
        key_map(abstract_model(entry.name, **{**config, "in_channels": n}), found.layout)
        for n in (RGB, config["in_channels"])
    )
    key = found.first_conv
    kernel = rgb.by_foreign[key].to_native(arrays[key])
    adapted = adapt_input_channels(kernel, config["in_channels"])
    return {**arrays, key: own.by_foreign[key].to_foreign(adapted)}


def _draw_the_rest(model: nnx.Module, draws: Draws, drawn: Callable[[], nnx.Module]) -> None:
    """Give the variables that are still abstract the values that building would have given them.

    The model is built again, and of its draws only those are made: a new head of a large network
    costs no more than the head.
    """
    numbers = {id(shape): number for number, shape in enumerate(draws)}
    variables = _variables(model)
    empty = {
        path: numbers[id(value)]
        for path, variable in variables.items()
        if isinstance(value := variable.get_value(), jax.ShapeDtypeStruct)
    }
    if not empty:
        return
    with undrawn(but=frozenset(empty.values())):
        filled = _variables(drawn())
    for path in empty:
        variables[path].set_value(filled[path].get_value())


def _variables(model: nnx.Module) -> dict[tuple[Any, ...], nnx.Variable]:
    nodes = nnx.iter_graph(model)
    return {path: variable for path, variable in nodes if isinstance(variable, nnx.Variable)}
