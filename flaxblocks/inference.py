"""Running a finished model: batch norms folded into their convolutions, and a call that costs next
to nothing.

`nnx.jit` walks the module at every call, 20 ms for MobileNetV2, more than its arithmetic takes.
Here the module is taken apart once; what is compiled is a function of a plain dict of arrays.

Where it runs is decided as JAX decides it: what was put on a device or a mesh stays there, and the
rest follows it.
"""

from collections import Counter
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.nn.drop import StochasticDepth
from flaxblocks.nn.norm import BatchNorm

__all__ = ["CompiledInference", "compile_inference", "fold_batch_norm"]


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """A copy of `model` in evaluation mode whose convolutions have taken in the batch norms that
    follow them.

    kernel' = kernel * g, bias' = (bias - mean) * g + beta, with g = scale / sqrt(var + eps), in
    float64 and rounded once. Each `ConvNormAct` with a batch norm that keeps running statistics is
    folded; other norms stay, as do a convolution that several modules share and a subclass that
    calls its layers in another order. The copy is for inference: its names are no longer those of a
    checkpoint, and its dropout has no random stream.
    """
    folded = _evaluating_copy(model)
    modules = [module for _, module in nnx.iter_modules(folded)]
    owners = Counter(id(child) for module in modules for child in vars(module).values())
    for module in modules:
        if (
            isinstance(module, ConvNormAct)
            and type(module).__call__ is ConvNormAct.__call__
            and isinstance(module.norm, BatchNorm)
            and module.norm.mean is not None
            and owners[id(module.conv)] == 1
        ):
            _fold(module, module.norm)
    return folded


def _evaluating_copy(model: nnx.Module) -> nnx.Module:
    """A copy in evaluation mode that shares no memory, as the original's may be donated to a step,
    and has no random stream. What was on no device in particular still is.
    """
    graphdef, state = nnx.split(model)
    copy = nnx.merge(graphdef, jax.tree.map(lambda a: _put(a, a, may_alias=False), state))
    copy.eval()
    for _, module in nnx.iter_modules(copy):
        if isinstance(module, nnx.Dropout | StochasticDepth):
            module.rngs = None
    return copy


def _is_placed(array: Any) -> bool:
    """Whether it was put on a device or a mesh, by `jax.device_put` say; JAX calls it committed."""
    return isinstance(array, jax.Array) and not isinstance(array, Tracer) and array.committed


def _put(value: Any, beside: Any, may_alias: bool | None = None) -> jax.Array:
    """`value` on the devices that `beside` was put on, if it was."""
    where = beside.sharding if _is_placed(beside) else None
    return jax.device_put(value, where, may_alias=may_alias)


def _fold(block: ConvNormAct, norm: BatchNorm) -> None:
    """Take `norm` into `block.conv`, in place."""
    assert norm.mean is not None  # or it would not be folded
    kernel, mean = block.conv.kernel.get_value(), norm.mean.get_value()

    def values(variable: nnx.Variable | None, default: float) -> np.ndarray:
        return np.asarray(default if variable is None else variable.get_value(), np.float64)

    gain = values(norm.scale, 1.0) / np.sqrt(values(norm.var, 1.0) + norm.eps)
    bias = (values(block.conv.bias, 0.0) - values(norm.mean, 0.0)) * gain + values(norm.bias, 0.0)
    folded = (values(block.conv.kernel, 0.0) * gain).astype(kernel.dtype)
    block.conv.kernel.set_value(_put(folded, kernel))
    del block.conv.bias, block.norm
    block.conv.bias = nnx.Param(_put(bias.astype(kernel.dtype), mean))
    block.norm = None


class CompiledInference:
    """`run(x)`: a module's arrays, and the program that they go into with a batch.

    Arrays that the model was put on a device or a mesh with stay there. Others go where the batch
    was put, once for each device or mesh, and are kept there.
    """

    def __init__(self, module: nnx.Module):
        """Take the module, in evaluation mode, apart. Its memory must be its own."""
        graphdef, state = nnx.split(module)
        arrays = nnx.to_pure_dict(state)

        @jax.jit
        def forward(arrays: dict[str, Any], x: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, arrays)(x)

        placed = next(filter(_is_placed, jax.tree.leaves(arrays)), None)
        self._home: set[Any] | None = None  # devices
        if placed is not None:
            self._home, whole = placed.sharding.device_set, _whole_on(placed.sharding)
            arrays = jax.tree.map(
                lambda a: a if _is_placed(a) else jax.device_put(a, whole), arrays
            )
        self._arrays = arrays
        self._copies: dict[Any, dict[str, Any]] = {}  # mesh, or sharding on a device -> arrays
        self._forward = forward

    def __call__(self, x: jax.Array | np.ndarray) -> jax.Array:
        """What the model gives for `x`.

        Raises: ValueError for a batch that was put on other devices than the model was.
        """
        return self._forward(self._arrays_beside(x), x)

    def _arrays_beside(self, x: Any) -> dict[str, Any]:
        if not _is_placed(x):
            return self._arrays
        if self._home is not None:
            if self._home != x.sharding.device_set:
                raise ValueError(
                    f"`x` (on {_named(x.sharding.device_set)}) must be on {_named(self._home)}, "
                    "where the model was put: `jax.device_put` moves either"
                )
            return self._arrays
        place = x.sharding.mesh if isinstance(x.sharding, NamedSharding) else x.sharding
        if place not in self._copies:
            self._copies[place] = jax.device_put(self._arrays, _whole_on(x.sharding))
        return self._copies[place]


def _whole_on(sharding: Sharding) -> Sharding | None:
    """For arrays that are whole on each device of `sharding`; None, which leaves it to JAX, for one
    of another kind.
    """
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    if isinstance(sharding, SingleDeviceSharding):
        return SingleDeviceSharding(*sharding.device_set)
    return None


def _named(devices: set[Any]) -> str:
    return ", ".join(f"{one.platform}:{one.id}" for one in sorted(devices, key=lambda one: one.id))


def compile_inference(model: nnx.Module, *, fold: bool = True) -> CompiledInference:
    """A compiled `run(x)` of the model as it is now, in evaluation mode; later changes to `model`
    do not reach it.

    It runs where `nnx.jit` of the model would: where the model was put, by `jax.device_put`, on a
    device or a mesh; a model that was put nowhere follows each batch.

    Args:
        model: any module of one input, such as an image batch `(N, H, W, C)`; it is left as it is.
        fold: fold batch norms into convolutions (`fold_batch_norm`), which agrees to rounding.

    Returns: `run(x)`, compiled at the first call for each shape.
    """
    return CompiledInference(fold_batch_norm(model) if fold else _evaluating_copy(model))
