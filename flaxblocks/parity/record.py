"""Recording what every module of a Flax model returns.

ResNet-152 is 50 blocks of eight kinds. JAX traces each of them, and XLA compiles each, though a
block is the program of the one before it with other weights. So a model can also be run step by
step: what was traced or compiled for one step serves all of its kind, in this model and the next.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax
from flax import nnx

from flaxblocks.models.image_model import ImageModel
from flaxblocks.nn.drop import Dropout, StochasticDepth

__all__ = ["drop_nothing", "record_by_step", "record_outputs"]

Outputs = OrderedDict[str, Any]  # dotted path -> what `__call__` gave; in order, also out of `jit`


@contextmanager
def record_outputs(model: nnx.Module) -> Iterator[Outputs]:
    """A dict that fills with the output of each module below `model`, by dotted path, while `model`
    runs.

    Works under `jax.jit`, where the outputs are tracers to be returned.
    `nnx.capture(method_outputs=...)` would do, but passes over modules that inherit their
    `__call__`.
    """
    modules = [(path, module) for path, module in nnx.iter_modules(model) if callable(module)]
    paths = {id(module): ".".join(map(str, path)) for path, module in modules}
    outputs: Outputs = OrderedDict()

    def recording(call):
        def wrapper(self, *args, **kwargs):
            y = call(self, *args, **kwargs)
            if id(self) in paths:  # not so for the copies inside of `nnx.remat` and `nnx.scan`
                outputs[paths[id(self)]] = y
            return y

        return wrapper

    with _calls_replaced({type(module) for _, module in modules}, recording):
        yield outputs


@contextmanager
def record_by_step(
    model: nnx.Module, options: Callable[[nnx.Module], dict[str, Any]] | None = None
) -> Iterator[Outputs]:
    """`record_outputs`, and each step of `model` runs as a program of its own, which is shared by
    all steps that differ in the values of their variables only.

    Args:
        model: the steps of an `ImageModel` are what `steps()` gives, and the rest runs operation by
            operation; any other module is one step.
        options: the compiler options for a step; not where the whole is under `jax.jit`.
    """
    named = model.steps() if isinstance(model, ImageModel) else [("", model)]
    steps = {id(step): (name, step) for name, step in named if isinstance(step, nnx.Module)}

    def by_step(call):
        def wrapper(self, *args):
            if id(self) not in steps:
                return call(self, *args)
            name, _ = steps[id(self)]
            chosen = {} if options is None else options(self)
            graphdef, state = nnx.split(self)
            inner, stats = _program(tuple(chosen.items()))(graphdef, state, args)
            nnx.update(self, stats)
            outputs.update((".".join(filter(None, (name, path))), y) for path, y in inner.items())
            return inner[""]

        return wrapper

    classes = {type(step) for _, step in steps.values()}
    with record_outputs(model) as outputs, _calls_replaced(classes, by_step):
        yield outputs


def drop_nothing(model: nnx.Module) -> None:
    """Turn dropout and stochastic depth off in every mode; blocks that differed in their rates only
    are now of one kind.
    """
    model.set_attributes(
        Dropout, StochasticDepth, rate=0.0, deterministic=True, raise_if_not_found=False
    )


@lru_cache
def _program(options: tuple[tuple[str, Any], ...]) -> Callable[..., tuple[Outputs, nnx.State]]:
    """What runs a step; `jax.jit` keeps it for each `graphdef` and shape."""

    def run(graphdef: nnx.GraphDef, state: nnx.State, args: tuple) -> tuple[Outputs, nnx.State]:
        step = nnx.merge(graphdef, state)
        with record_outputs(step) as outputs:
            step(*args)
        return outputs, nnx.state(step, nnx.BatchStat)

    return jax.jit(run, static_argnums=0, compiler_options=dict(options) or None)


@contextmanager
def _calls_replaced(classes: Iterable[type], wrap: Callable) -> Iterator[None]:
    """`wrap(__call__)` in place of the `__call__` of each class."""
    own = {cls: cls.__dict__.get("__call__") for cls in classes}
    wrapped = {cls: wrap(cls.__call__) for cls in own}
    try:
        for cls, call in wrapped.items():
            cls.__call__ = call
        yield
    finally:
        for cls, call in own.items():
            if call is None:
                del cls.__call__
            else:
                cls.__call__ = call
