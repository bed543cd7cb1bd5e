"""Running a finished model: batch norms folded into their convolutions, and a call that costs next
to nothing.

`nnx.jit` walks the module at every call, 20 ms for MobileNetV2, more than its arithmetic takes.
Here the module is taken apart once; what is compiled is a function of a plain dict of arrays.
"""

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
    float32 at least. Each `ConvNormAct` with a batch norm that keeps running statistics is folded;
    other norms stay. The copy is for
    inference: its names are no longer those of a checkpoint.
    """
    folded = nnx.clone(model)
    folded.eval()
    for _, module in nnx.iter_modules(folded):
        if (
            isinstance(module, ConvNormAct)
            and isinstance(module.norm, BatchNorm)
            and module.norm.mean is not None
        ):
            _fold(module, module.norm)
    return folded


def _fold(block: ConvNormAct, norm: BatchNorm) -> None:
    """In float64, so that each folded value is rounded once."""
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
    if fold:
        finished = fold_batch_norm(model)
    else:
        finished = nnx.clone(model)
        finished.eval()
    graphdef, state = nnx.split(finished)
    arrays = nnx.to_pure_dict(state)

    @jax.jit
    def forward(arrays: dict, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, arrays)(x)

    return lambda x: forward(arrays, x)
