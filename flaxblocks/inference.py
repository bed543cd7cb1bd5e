"""Fast inference: fold batch norms into their convolutions, and compile a call without overhead.

`nnx.jit` traverses the module at every call, which takes 20 ms for MobileNetV2, more than its
arithmetic. Here the module is split once, and a function of a plain dict of arrays is compiled.

Devices are chosen as in JAX: arrays that were put on a device or a mesh stay there, and all others
follow them.
"""

from collections import Counter
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.nn.arguments import as_array, check_module
from flaxblocks.nn.drop import StochasticDepth
from flaxblocks.nn.norm import BatchNorm

__all__ = ["CompiledInference", "compile_inference", "fold_batch_norm"]


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """Copy `model` in evaluation mode, with batch norms folded into the convolutions before them.

    kernel' = kernel * g and bias' = (bias - mean) * g + beta, with g = scale / sqrt(var + eps),
    computed in float64 and rounded once. A `ConvNormAct` is folded if its norm is a `BatchNorm`
    with running statistics, no other module shares its convolution, and its class does not
    override `__call__`; everything else stays as it is. The copy is for inference only: it no
    longer has the variables of a checkpoint, and its dropout has no random stream.

    Raises: ValueError if `model` is not a module.
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
    """A copy in evaluation mode, without random streams.

    It shares no memory with the original, whose arrays may be donated to a training step. Arrays
    that were not put on a particular device are not in the copy either.
    """
    check_module("model", model)
    graphdef, state = nnx.split(model)
    copy = nnx.merge(graphdef, jax.tree.map(lambda a: _put(a, a, may_alias=False), state))
    copy.eval()
    for _, module in nnx.iter_modules(copy):
        if isinstance(module, nnx.Dropout | StochasticDepth):
            module.rngs = None
    return copy


def _is_placed(array: Any) -> bool:
    """Whether an array was put on a device or a mesh, such as by `jax.device_put`; JAX calls such
    arrays committed.
    """
    return isinstance(array, jax.Array) and not isinstance(array, Tracer) and array.committed


def _put(value: Any, beside: Any, may_alias: bool | None = None) -> jax.Array:
    """`value`, on the devices of `beside` if `beside` was put on devices."""
    where = beside.sharding if _is_placed(beside) else None
    return jax.device_put(value, where, may_alias=may_alias)


def _fold(block: ConvNormAct, norm: BatchNorm) -> None:
    """Fold `norm` into `block.conv`, in place."""
    assert norm.mean is not None  # the caller has checked it
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
    """A compiled model, called as `run(x)`: the arrays of a module and its compiled program.

    Arrays of a model that was put on a device or a mesh stay there. Otherwise they are copied to
    the device or mesh of the batch, once for each, and the copies are kept.
    """

    def __init__(self, module: nnx.Module):
        """Split `module`, which must be in evaluation mode and share memory with no other model."""
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
        """The model's output for `x`.

        Raises: ValueError if the batch was put on other devices than the model, or is no array.
        """
        x = x if isinstance(x, jax.Array | np.ndarray) else as_array(x)
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
    """The sharding that replicates an array on each device of `sharding`; None, which leaves the
    placement to JAX, if `sharding` is neither a `NamedSharding` nor a `SingleDeviceSharding`.
    """
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    if isinstance(sharding, SingleDeviceSharding):
        return SingleDeviceSharding(*sharding.device_set)
    return None


def _named(devices: set[Any]) -> str:
    return ", ".join(f"{one.platform}:{one.id}" for one in sorted(devices, key=lambda one: one.id))


def compile_inference(model: nnx.Module, *, fold: bool = True) -> CompiledInference:
    """Compile the model in evaluation mode, as a callable `run(x)`.

    `run` holds a copy of the model: later changes to `model` have no effect on it. It runs where
    `nnx.jit` of the model would: on the device or mesh that the model was put on by
    `jax.device_put`, otherwise on that of each batch.

    Args:
        model: any module with one input, such as an image batch `(N, H, W, C)`; not modified.
        fold: fold batch norms into convolutions (`fold_batch_norm`); the result is the same up to
            rounding.

    Returns: `run(x)`, compiled at the first call for each input shape and dtype.
    Raises: ValueError if `model` is not a module.
    """
    return CompiledInference(fold_batch_norm(model) if fold else _evaluating_copy(model))
