"""Normalisation by the statistics of the batch, with the derivative that PyTorch's kernels use.

Differentiated as it stands, the formula would pass over the image some ten times: through the mean,
the variance and the normalised value each. Written out, its derivative needs two sums over the
batch, of the cotangent and of its product with the centred image, and one pass more. On CPU, where
a training step is bound by memory, that is a third of the step.

A batch may lie in parts on several devices, under `jax.shard_map` or `jax.pmap`: then each mean is
that of the parts' means, which are equally long. The derivative is made of the same means.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

__all__ = ["AxisName", "inverse_root", "normalise_by_batch"]

AxisName = str | tuple[str, ...] | None


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def normalise_by_batch(
    x: jax.Array, scale: jax.Array, eps: float, axis_name: AxisName = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise each channel by the mean and the biased variance of the batch, and scale it.

    Args:
        x: `(..., C)`.
        scale: `(C,)`.
        eps: added to the variance.
        axis_name: of the mesh's or map's axes that the batch is split over.

    Returns: the normalised image `(..., C)`, mean and variance `(C,)`.
    """
    mean, centred, var = _moments(x, axis_name)
    return centred * (inverse_root(var + eps) * scale), mean, var


def inverse_root(x: jax.Array) -> jax.Array:
    """1 / sqrt(x), which XLA would make `lax.rsqrt` of if it stood there as such.

    The CPU backend's own misses by up to three units in the last place, of one spread of values
    more often below than above: the norms of a deep network then all shrink the image a little,
    which adds up, where roundings of one channel up and of another down do not.
    """
    return jnp.sqrt(1 / x)


def _moments(x: jax.Array, axis_name: AxisName) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, `x` about the mean, and the variance about the mean."""
    mean = _batch_mean(x, axis_name)
    centred = x - mean
    return mean, centred, _batch_mean(jnp.square(centred), axis_name)


def _batch_mean(x: jax.Array, axis_name: AxisName) -> jax.Array:
    mean = x.mean(tuple(range(x.ndim - 1)))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


@partial(normalise_by_batch.defjvp, symbolic_zeros=True)
def _normalise_by_batch_jvp(eps: float, axis_name: AxisName, primals: Any, tangents: Any):
    x, scale = primals
    x_tangent, scale_tangent = tangents
    mean, centred, var = _moments(x, axis_name)
    root = inverse_root(var + eps)
    gain = root * scale
    y_tangent = jnp.zeros_like(x)
    mean_tangent, var_tangent = jnp.zeros_like(mean), jnp.zeros_like(var)
    if not isinstance(x_tangent, SymbolicZero):
        # No product of a whole image with a channel's number stands inside a mean, here or in the
        # transpose: XLA would write it out before adding it up.
        mean_tangent = _batch_mean(x_tangent, axis_name)
        var_tangent = 2 * _batch_mean(centred * x_tangent, axis_name)
        through_var = jnp.square(root) * var_tangent / -2
        y_tangent = x_tangent * gain + (-gain * mean_tangent) + centred * (gain * through_var)
    if not isinstance(scale_tangent, SymbolicZero):
        y_tangent += centred * (root * scale_tangent)
    return (centred * gain, mean, var), (y_tangent, mean_tangent, var_tangent)
