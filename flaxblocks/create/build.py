"""Building the module of a registry row: with drawn parameters, abstract, or drawn in part."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from flax import nnx

from flaxblocks.convert.keymap import layouts_of
from flaxblocks.create.origin import remember
from flaxblocks.models.argument_names import our_name
from flaxblocks.models.registry import ModelEntry, find_model, suggest
from flaxblocks.nn.init import make_rngs, undrawn

__all__ = [
    "ANY_KEYS",
    "DEFAULT_CLASSES",
    "Draws",
    "Keys",
    "abstract",
    "abstract_model",
    "build",
    "draw_the_rest",
]

DEFAULT_CLASSES = 1000
Keys = Mapping[str, Any]  # random stream -> key
Draws = list[jax.ShapeDtypeStruct]  # the draws that an abstract model did not make, in order
ANY_KEYS: Keys = {"params": 0, "dropout": 0}


def build(entry: ModelEntry, config: Mapping[str, Any], keys: Keys) -> Any:
    """Build the module of a row, with parameters drawn from `keys`.

    Raises: ValueError for an argument that the model does not have or that is out of range.
    """
    for argument in config:
        if argument not in entry.arguments:
            meant = our_name(argument, entry.arguments)
            hint = f": did you mean {meant}?" if meant else suggest(argument, entry.arguments)
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
    """The model with shapes and dtypes in place of parameters and buffers, as from
    `nnx.eval_shape`, so that it needs no memory. Random streams are concrete.

    Raises: ValueError as `create_model`.
    """
    return abstract(partial(build, find_model(name), config, ANY_KEYS))[0]


def abstract(drawn: Callable[[], nnx.Module]) -> tuple[Any, Draws]:
    """The abstract module that `drawn` builds, and the draws that it would have made."""
    with undrawn() as draws:
        return drawn(), draws


def draw_the_rest(model: nnx.Module, draws: Draws, drawn: Callable[[], nnx.Module]) -> None:
    """Give variables that are still abstract the values that building would have given them.

    The model is built again with only these draws, so a new head of a large network costs no more
    than the head.
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
