"""Running a finished model: batch norms folded into their convolutions, and a call that costs next
to nothing.

`nnx.jit` walks the module at every call, 20 ms for MobileNetV2, more than its arithmetic takes.
Here the module is taken apart once; what is compiled is a function of a plain dict of arrays.
"""

from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.nn.norm import BatchNorm

__all__ = ["compile_inference", "fold_batch_norm"]


def fold_batch_norm(model: nnx.Module) -> nnx.Module:
    """A copy of `model` in evaluation mode whose convolutions have taken in the batch norms that
    follow them.

    kernel' = kernel * g, bias' = (bias - mean) * g + beta, with g = scale / sqrt(var + eps), in
    float64 and rounded once. Each `ConvNormAct` with a batch norm that keeps running statistics is
    folded; other norms stay, as do a convolution that several modules share and a subclass that
    calls its layers in another order. The copy is for inference: its names are no longer those of a
    checkpoint.
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
    """A copy in evaluation mode that shares no memory: the original's may be donated to a step."""
    graphdef, state = nnx.split(model)
    own = jax.tree.map(lambda a: jax.device_put(a, a.sharding, may_alias=False), state)
    copy = nnx.merge(graphdef, own)
    copy.eval()
    return copy


def _fold(block: ConvNormAct, norm: BatchNorm) -> None:
    """Take `norm` into `block.conv`, in place."""
    dtype = block.conv.kernel.dtype

    def values(variable: nnx.Variable | None, default: float) -> np.ndarray:
        return np.asarray(default if variable is None else variable[...], np.float64)

    gain = values(norm.scale, 1.0) / np.sqrt(values(norm.var, 1.0) + norm.eps)
    bias = (values(block.conv.bias, 0.0) - values(norm.mean, 0.0)) * gain + values(norm.bias, 0.0)
    block.conv.kernel[...] = jnp.asarray((values(block.conv.kernel, 0.0) * gain).astype(dtype))
    del block.conv.bias, block.norm
    block.conv.bias = nnx.Param(jnp.asarray(bias.astype(dtype)))
    block.norm = None


def compile_inference(model: nnx.Module, *, fold: bool = True) -> Callable[[jax.Array], jax.Array]:
    """A compiled `run(x)` of the model as it is now, in evaluation mode; later changes to `model`
    do not reach it.

    Args:
        model: any module of one input, such as an image batch `(N, H, W, C)`; it is left as it is.
        fold: fold batch norms into convolutions (`fold_batch_norm`), which agrees to rounding.

    Returns: `run(x)`, compiled at the first call for each shape.
    """
    finished = fold_batch_norm(model) if fold else _evaluating_copy(model)
    graphdef, state = nnx.split(finished)
    arrays = nnx.to_pure_dict(state)

    @jax.jit
    def forward(arrays: dict, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, arrays)(x)

    return lambda x: forward(arrays, x)
