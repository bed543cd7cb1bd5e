"""Recording what every module of a Flax model returns."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flax import nnx

__all__ = ["record_outputs"]


@contextmanager
def record_outputs(model: nnx.Module) -> Iterator[dict[str, Any]]:
    """A dict that fills with the output of each module below `model`, by dotted path, while `model`
    runs.

    Works under `jax.jit`, where the outputs are tracers to be returned.
    `nnx.capture(method_outputs=...)` would do, but passes over modules that inherit their
    `__call__`.
    """
    paths = {id(module): ".".join(map(str, path)) for path, module in nnx.iter_modules(model)}
    outputs: dict[str, Any] = {}

    def recording(call):
        def wrapper(self, *args, **kwargs):
            y = call(self, *args, **kwargs)
            if id(self) in paths:  # not so for the copies inside of `nnx.remat` and `nnx.scan`
                outputs[paths[id(self)]] = y
            return y

        return wrapper

    classes = {type(module) for _, module in nnx.iter_modules(model) if callable(module)}
    own = {cls: cls.__dict__.get("__call__") for cls in classes}
    wrapped = {cls: recording(cls.__call__) for cls in classes}
    try:
        for cls, call in wrapped.items():
            cls.__call__ = call
        yield outputs
    finally:
        for cls, call in own.items():
            if call is None:
                del cls.__call__
            else:
                cls.__call__ = call
