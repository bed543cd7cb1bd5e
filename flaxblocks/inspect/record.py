"""Recording of the outputs of all modules of a Flax model.

ResNet-152 has 50 blocks of only eight kinds, but JAX traces and XLA compiles every one, although
blocks of one kind are the same program with other weights. A model can therefore also be run step
by step, so that tracing and compiling are done once per kind of step, also across models.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache, partial
from types import MappingProxyType
from typing import Any

import jax
from flax import nnx

from flaxblocks.models.image_model import ImageModel
from flaxblocks.nn.drop import Dropout, StochasticDepth

__all__ = ["drop_nothing", "record_by_step", "record_outputs"]

Outputs = OrderedDict[str, Any]  # dotted path -> output; `jit` preserves the order
# Called with a module's `__call__` and its arguments; its result replaces the module's output.
Observer = Callable[..., Any]
Observed = tuple[nnx.Module, Observer]
_observers: ContextVar[Mapping[int, Observer]] = ContextVar(
    "observers", default=MappingProxyType({})
)


@contextmanager
def record_outputs(model: nnx.Module) -> Iterator[Outputs]:
    """Record the output of each module below `model`, by dotted path, while `model` runs.

    Works under `jax.jit`, where the outputs are tracers to be returned. Unlike
    `nnx.capture(method_outputs=...)`, it does not patch classes, which other threads use too, and
    it includes modules that inherit their `__call__`.

    Args:
        model: a model that nothing else uses meanwhile, such as the result of `nnx.merge`: its
            modules have another class until the context ends.

    Yields: a dict to which each call adds its output.
    """
    outputs: Outputs = OrderedDict()
    with _observed(_recorders(model, outputs)):
        yield outputs


@contextmanager
def record_by_step(
    model: nnx.Module, options: Callable[[nnx.Module], dict[str, Any]] | None = None
) -> Iterator[Outputs]:
    """`record_outputs`, with each step of `model` run as a separate program, which all steps share
    that differ only in the values of their variables.

    Args:
        model: as in `record_outputs`. The steps of an `ImageModel` are its `steps`, and the rest
            runs operation by operation; any other module is a single step.
        options: gives the compiler options for a step; cannot be used under `jax.jit`.

    Yields: a dict to which each call adds its output.
    """
    named = model.steps if isinstance(model, ImageModel) else [("", model)]
    steps = [(name, step) for name, step in named if isinstance(step, nnx.Module)]

    def stepping(name: str, step: nnx.Module) -> Observer:
        # Split before the modules change class; the state refers to their own variables.
        graphdef, state = nnx.split(step)
        chosen = {} if options is None else options(step)

        def observe(_call, *args):
            inner, stats = _program(tuple(chosen.items()))(graphdef, state, args)
            nnx.update(step, stats)
            outputs.update((".".join(filter(None, (name, path))), y) for path, y in inner.items())
            return inner[""]

        return observe

    outputs: Outputs = OrderedDict()
    by_step = [(step, stepping(name, step)) for name, step in steps]
    with _observed([*_recorders(model, outputs), *by_step]):
        yield outputs


def drop_nothing(model: nnx.Module) -> None:
    """Disable dropout and stochastic depth in every mode, so that blocks that differed only in
    their rates become one kind.
    """
    model.set_attributes(
        Dropout, StochasticDepth, rate=0.0, deterministic=True, raise_if_not_found=False
    )


@lru_cache
def _program(options: tuple[tuple[str, Any], ...]) -> Callable[..., tuple[Outputs, nnx.State]]:
    """The function that runs a step; `jax.jit` caches a program per `graphdef` and shape."""

    def run(graphdef: nnx.GraphDef, state: nnx.State, args: tuple) -> tuple[Outputs, nnx.State]:
        step = nnx.merge(graphdef, state)
        with record_outputs(step) as outputs:
            step(*args)
        return outputs, nnx.state(step, nnx.BatchStat)

    return jax.jit(run, static_argnums=0, compiler_options=dict(options) or None)


def _recorders(model: nnx.Module, outputs: Outputs) -> list[Observed]:
    """For each callable module, an observer that stores its output in `outputs`."""

    def recording(path: str) -> Observer:
        def observe(call, *args, **kwargs):
            outputs[path] = y = call(*args, **kwargs)
            return y

        return observe

    return [
        (module, recording(".".join(map(str, path))))
        for path, module in nnx.iter_modules(model)
        if callable(module)
    ]


@contextmanager
def _observed(observed: Sequence[Observed]) -> Iterator[None]:
    """Within this context, a call of one of the modules in this thread goes to its observer (the
    last one given).
    """
    added = {id(module): observer for module, observer in observed}
    classes = {id(module): (module, type(module)) for module, _ in observed}.values()
    token = _observers.set({**_observers.get(), **added})
    try:
        for module, cls in classes:
            object.__setattr__(module, "__class__", _observable(cls))
        yield
    finally:
        for module, cls in classes:
            object.__setattr__(module, "__class__", cls)
        _observers.reset(token)


@cache
def _observable(cls: type[nnx.Module]) -> type[nnx.Module]:
    """A subclass of `cls` whose calls go to an observer, if there is one. Without an observer, as
    in another thread or in the copies that `nnx.remat` and `nnx.scan` make, calls are unchanged.
    """

    def __call__(self, *args, **kwargs):
        call = partial(cls.__call__, self)
        observe = _observers.get().get(id(self))
        return call(*args, **kwargs) if observe is None else observe(call, *args, **kwargs)

    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: Any = type(cls)
    return made(cls.__name__, (cls,), {**names, "__call__": __call__})
