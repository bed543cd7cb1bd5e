"""Recording what every module of a Flax model returns.

ResNet-152 is 50 blocks of eight kinds. JAX traces each of them, and XLA compiles each, though a
block is the program of the one before it with other weights. So a model can also be run step by
step: what was traced or compiled for one step serves all of its kind, in this model and the next.
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

Outputs = OrderedDict[str, Any]  # dotted path -> what `__call__` gave; in order, also out of `jit`
# Gets the call of one module and its arguments, and gives what the module then gives.
Observer = Callable[..., Any]
Observed = tuple[nnx.Module, Observer]
_observers: ContextVar[Mapping[int, Observer]] = ContextVar(
    "observers", default=MappingProxyType({})
)


@contextmanager
def record_outputs(model: nnx.Module) -> Iterator[Outputs]:
    """A dict that fills with the output of each module below `model`, by dotted path, while `model`
    runs.

    Works under `jax.jit`, where the outputs are tracers to be returned.
    `nnx.capture(method_outputs=...)` would do, but it patches classes, which other threads use too,
    and passes over modules that inherit their `__call__`.

    Args:
        model: one that nobody else uses meanwhile, such as what `nnx.merge` gives: its modules
            change their class until the end.
    """
    outputs: Outputs = OrderedDict()
    with _observed(_recorders(model, outputs)):
        yield outputs


@contextmanager
def record_by_step(
    model: nnx.Module, options: Callable[[nnx.Module], dict[str, Any]] | None = None
) -> Iterator[Outputs]:
    """`record_outputs`, and each step of `model` runs as a program of its own, which is shared by
    all steps that differ in the values of their variables only.

    Args:
        model: as in `record_outputs`. The steps of an `ImageModel` are its `steps`, and the rest
            runs operation by operation; any other module is one step.
        options: the compiler options for a step; not where the whole is under `jax.jit`.
    """
    named = model.steps if isinstance(model, ImageModel) else [("", model)]
    steps = [(name, step) for name, step in named if isinstance(step, nnx.Module)]

    def stepping(name: str, step: nnx.Module) -> Observer:
        # While its modules have their own classes; the state is of their own variables.
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


def _recorders(model: nnx.Module, outputs: Outputs) -> list[Observed]:
    """What puts the output of each module into `outputs`."""

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
    """Within it a call of one of the modules goes to its observer, the last one, in this thread."""
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
    """`cls`, but that a call looks for an observer. Without one, as in another thread, and for the
    copies inside of `nnx.remat` and `nnx.scan`, it is the call that it was.
    """

    def __call__(self, *args, **kwargs):
        call = partial(cls.__call__, self)
        observe = _observers.get().get(id(self))
        return call(*args, **kwargs) if observe is None else observe(call, *args, **kwargs)

    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    made: Any = type(cls)
    return made(cls.__name__, (cls,), {**names, "__call__": __call__})
