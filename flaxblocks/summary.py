"""What a model is made of: stages, their output shapes, parameters, multiply-adds."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from flaxblocks.nn.conv import Conv
from flaxblocks.nn.linear import Linear
from flaxblocks.parity.record import drop_nothing, record_by_step

__all__ = ["StageRow", "count_parameters", "output_shapes", "summarize", "table"]


@dataclass(frozen=True)
class StageRow:
    """One stage of a model.

    Attributes:
        name: its native path.
        kind: the class of the module.
        shape: of its output for one image, without the batch axis.
        parameters: trainable ones below it.
        multiply_adds: of its convolutions with their biases and of its linear layers for one image,
            and 1 for each bias of those and each parameter of a norm: the convention of the
            published counts.
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
    """A row for each outermost module below `model` that has an output, in forward order: a list's
    items by themselves.

    Nothing is computed: shapes come from `jax.eval_shape`, so an abstract model will do.

    Args:
        model: of one image batch.
        input_size: (height, width) in pixels.
        in_channels: channels of the image.
    """
    shapes = output_shapes(model, (*input_size, in_channels))
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    costs = {path: _multiply_adds(modules[path], shape) for path, shape in shapes.items()}

    def below(path: str) -> int:
        return sum(cost for other, cost in costs.items() if f"{other}.".startswith(f"{path}."))

    return [
        StageRow(
            path,
            type(modules[path]).__name__,
            shapes[path],
            count_parameters(modules[path]),
            below(path),
        )
        for path in shapes
        if _is_outermost(path, shapes)
    ]


def output_shapes(module: nnx.Module, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The shape of what each module below gives for one image `(H, W, C)`, without the batch axis,
    by path and in forward order; modules that do not give one array are left out.
    """
    graphdef, state = nnx.split(module)

    def forward(state, x):
        fresh = nnx.merge(graphdef, state)
        fresh.eval()
        drop_nothing(fresh)
        with record_by_step(fresh) as outputs:
            fresh(x)
        return outputs

    outputs = jax.eval_shape(forward, state, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    return {path: y.shape[1:] for path, y in outputs.items() if hasattr(y, "shape")}


def _is_outermost(path: str, paths: Iterable[str]) -> bool:
    """No other module below the root encloses it."""
    return path != "" and not any(path.startswith(f"{other}.") for other in paths if other)


def table(rows: list[StageRow]) -> str:
    """The rows in aligned columns, for a terminal."""
    cells = [("stage", "module", "output", "parameters", "multiply-adds")] + [
        (
            row.name,
            row.kind,
            "x".join(map(str, row.shape)),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{'<' if i < 2 else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def _multiply_adds(module: nnx.Module, shape: tuple[int, ...]) -> int:
    """Of this module by itself, without what lies below it."""
    own = (value for value in vars(module).values() if isinstance(value, nnx.Param))
    once = sum(math.prod(param.shape) for param in own if len(param.shape) == 1)
    if isinstance(module, Conv):
        taps = math.prod(module.kernel_size) * module.in_features // module.groups
        return math.prod(shape) * (taps + (module.bias is not None))
    if isinstance(module, Linear):
        return math.prod(shape) * module.in_features + once
    return once
