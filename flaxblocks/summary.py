"""What a model is made of: stages, their output shapes, parameters, multiply-adds."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from flaxblocks.nn.conv import Conv
from flaxblocks.nn.linear import Linear
from flaxblocks.parity.record import record_outputs

__all__ = ["StageRow", "count_parameters", "summarize"]


@dataclass(frozen=True)
class StageRow:
    """One stage of a model.

    Attributes:
        name: its native path.
        kind: the class of the module.
        shape: of its output for one image, without the batch axis.
        parameters: trainable ones below it.
        multiply_adds: of its convolutions and linear layers for one image; norms and biases are not
            counted.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def count_parameters(module: nnx.Module) -> int:
    """Trainable parameters; running statistics are none."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def summarize(
    model: nnx.Module, input_size: tuple[int, int], in_channels: int = 3
) -> list[StageRow]:
    """A row for each direct child of `model` that has an output, a list's items by themselves, in
    forward order.

    Nothing is computed: shapes come from `jax.eval_shape`, so an abstract model will do.

    Args:
        model: of one image batch.
        input_size: (height, width) in pixels.
        in_channels: channels of the image.
    """
    model.eval()
    graphdef, state = nnx.split(model)

    def forward(state, x):
        fresh = nnx.merge(graphdef, state)
        with record_outputs(fresh) as outputs:
            fresh(x)
        return outputs

    image = jax.ShapeDtypeStruct((1, *input_size, in_channels), jnp.float32)
    shapes = {path: value.shape for path, value in jax.eval_shape(forward, state, image).items()}
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    costs = {path: _multiply_adds(modules[path], shape) for path, shape in shapes.items()}

    def below(path: str) -> int:
        return sum(cost for other, cost in costs.items() if f"{other}.".startswith(f"{path}."))

    stages = sorted(
        (path for path in shapes if path and _is_stage(path)), key=_forward_order(model)
    )
    return [
        StageRow(
            path,
            type(modules[path]).__name__,
            shapes[path][1:],
            count_parameters(modules[path]),
            below(path),
        )
        for path in stages
    ]


def _is_stage(path: str) -> bool:
    _, *rest = path.split(".")
    return not rest or (len(rest) == 1 and rest[0].isdigit())


def _forward_order(model: nnx.Module):
    order = {name: i for i, name in enumerate(vars(model))}

    def key(path: str) -> tuple[int, int]:
        name, _, index = path.partition(".")
        return order[name], int(index or 0)

    return key


def _multiply_adds(module: nnx.Module, shape: tuple[int, ...]) -> int:
    if isinstance(module, Conv):
        return (
            math.prod(shape) * math.prod(module.kernel_size) * module.in_features // module.groups
        )
    return math.prod(shape) * module.in_features if isinstance(module, Linear) else 0
