"""A summary of a model: its stages with their output shapes, parameters and multiply-adds."""

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from flaxblocks.inspect.record import drop_nothing, record_by_step
from flaxblocks.models.image_model import ImageModel
from flaxblocks.nn.layer import multiply_adds_of
from flaxblocks.nn.parameters import count_parameters, own_parameters

ROOT = "(model)"

__all__ = ["StageRow", "count_parameters", "output_shapes", "step_shapes", "summarize", "table"]


@dataclass(frozen=True)
class StageRow:
    """One stage of a model.

    Attributes:
        name: its native path; "" for the model itself.
        kind: name of its class.
        shape: shape of its output for one image, without the batch axis; () if the output is not a
            single array.
        parameters: number of trainable parameters in it.
        multiply_adds: multiply-adds for one image, by the convention of the published counts: those
            of convolutions with their biases and of linear layers, plus 1 per bias parameter of a
            linear layer and per parameter of a norm.
        uncounted: paths of layers in it that `multiply_adds` does not include: layers with
            parameters that have no known rule, did not run, or did not return a single array.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    uncounted: tuple[str, ...] = ()


def summarize(
    model: nnx.Module, input_size: tuple[int, int], in_channels: int = 3
) -> list[StageRow]:
    """Summarise a model by its stages.

    There is a row for each outermost module below `model` that has an output, in forward order (the
    items of a list have a row each), then a row for each other module with parameters of its own.
    Nothing is computed: shapes come from `jax.eval_shape`, so the model may be abstract.

    Args:
        model: a model that takes an image batch.
        input_size: (height, width) in pixels.
        in_channels: channels of the image.
    """
    shapes = output_shapes(model, (*input_size, in_channels))
    modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    costs = {path: multiply_adds_of(modules[path], shape) for path, shape in shapes.items()}
    silent = [
        path
        for path, module in modules.items()
        if path not in shapes and callable(module) and own_parameters(module)
    ]
    uncounted = [*(path for path, cost in costs.items() if cost is None), *silent]

    stages: dict[str, list[str]] = {}  # outermost module -> itself and the modules below it
    for path in [*shapes, *silent]:
        stages.setdefault(_outermost(path, shapes), []).append(path)
    unknown = frozenset(uncounted)
    rows = [
        StageRow(
            path,
            type(modules[path]).__name__,
            shapes[path],
            count_parameters(modules[path]),
            sum(costs.get(other) or 0 for other in below),
            tuple(other for other in below if other in unknown),
        )
        for path, below in stages.items()
        if path
    ]
    listed = {path for row in rows for path in row.uncounted}
    others = [
        StageRow(
            path,
            type(modules[path]).__name__,
            shapes.get(path, ()),
            own_parameters(modules[path]),
            0,
            (path,),
        )
        for path in uncounted
        if path not in listed
    ]
    return rows + others


def output_shapes(module: nnx.Module, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The output shape of each module below `module` for one image `(H, W, C)`, without the batch
    axis, by path and in forward order; modules that do not return a single array are left out.
    """

    def outputs(fresh: nnx.Module, x: jax.Array) -> dict[str, Any]:
        with record_by_step(fresh) as recorded:
            fresh(x)  # type: ignore[operator]
        return recorded

    return _shapes(module, image, outputs)


def step_shapes(model: ImageModel, image: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The output shape of each step of a model, as in `output_shapes`, including functions.

    Raises: ValueError that names the first step that does not return a single array.
    """

    def outputs(fresh: ImageModel, x: jax.Array) -> dict[str, Any]:
        given = {}
        for name, step in fresh.steps:
            given[name] = x = step(x)
            if not hasattr(x, "shape"):
                kind = type(model).__name__
                raise ValueError(f"`model` (a {kind}): its step {name!r} must give one array")
        return given

    return _shapes(model, image, outputs)


def _shapes(
    module: nnx.Module, image: tuple[int, int, int], outputs: Callable[..., dict[str, Any]]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays that `outputs` returns for a copy of `module` and one image."""
    graphdef, state = nnx.split(module)

    def forward(state: nnx.State, x: jax.Array) -> dict[str, Any]:
        fresh = nnx.merge(graphdef, state)
        fresh.eval()
        drop_nothing(fresh)
        return outputs(fresh, x)

    given = jax.eval_shape(forward, state, jax.ShapeDtypeStruct((1, *image), jnp.float32))
    return {path: y.shape[1:] for path, y in given.items() if hasattr(y, "shape")}


def _outermost(path: str, paths: Container[str]) -> str:
    """The outermost of `paths`, except the root, that is `path` or encloses it; "" if none."""
    steps = path.split(".")
    enclosing = (".".join(steps[: i + 1]) for i in range(len(steps)))
    return next((other for other in enclosing if other and other in paths), "")


def table(rows: list[StageRow]) -> str:
    """The rows as aligned columns of text, followed by the names of uncounted layers."""
    cells = [("stage", "module", "output", "parameters", "multiply-adds")] + [
        (
            row.name or ROOT,
            row.kind,
            "x".join(map(str, row.shape)),
            f"{row.parameters:,}",
            f"{row.multiply_adds:,}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            f"{cell:{'<' if i < 2 else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    uncounted = [path or ROOT for row in rows for path in row.uncounted]
    if uncounted:
        names = ", ".join(uncounted)
        lines.append(f"not in the multiply-adds, without a known rule or an output: {names}")
    return "\n".join(lines)
