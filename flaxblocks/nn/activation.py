"""Activations by name, each as PyTorch computes it.

At the kinks of a piecewise function, JAX and PyTorch choose different derivatives: that of
`jnp.clip(x, 0, 6)` is 1/2 at exactly 0 and 6, that of PyTorch's relu6 is 0; that of
`jax.nn.leaky_relu` is 1 at 0, PyTorch's is 0.01. Dead channels lie exactly at a kink, so these
functions are written out here. They also agree at NaN and infinity, where JAX's derivative of a
`where` would give 0 times infinity.

Each is a module-level function, so that a model can be pickled, and JAX treats a deep copy of a
model as the same model.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import nn

__all__ = ["ACTIVATIONS", "Activation", "get_activation"]

Activation = str | Callable[[jax.Array], jax.Array] | None


def identity(x: jax.Array) -> jax.Array:
    """`x` itself."""
    return x


def exact_gelu(x: jax.Array) -> jax.Array:
    """x Phi(x), computed with the error function as in PyTorch by default; JAX's default is the
    tanh approximation.
    """
    return nn.gelu(x, approximate=False)


def elu(x: jax.Array) -> jax.Array:
    """x if x > 0, else e^x - 1."""
    return _elu(x)


@jax.custom_jvp
def _elu(x: jax.Array) -> jax.Array:
    return nn.elu(x)


# JAX would derive (e^x - 1) + 1, which is 0 in float32 for x below -17.
_elu.defjvps(lambda tangent, _, x: jnp.exp(jnp.where(x <= 0, x, 0)) * tangent)


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with slope 0 at 0 and slope 1 at NaN; `jax.nn.relu` has slope 0 there, which hides
    the NaN.
    """
    return jnp.where(x <= 0, 0, x).astype(x.dtype)


def relu6(x: jax.Array) -> jax.Array:
    """min(max(x, 0), 6), with slope 0 at both kinks."""
    return jnp.where(x <= 0, 0, jnp.where(x >= 6, 6, x)).astype(x.dtype)


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """min(max(x + 3, 0), 6) / 6, with slope 0 at both kinks."""
    return _hard_sigmoid(x)


@jax.custom_jvp
def _hard_sigmoid(x: jax.Array) -> jax.Array:
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, x / 6 + 0.5)).astype(x.dtype)


@_hard_sigmoid.defjvp
def _hard_sigmoid_jvp(primals, tangents):
    """The slope is 1/6 rounded to float32 in every precision, as in PyTorch."""
    (x,), (tangent,) = primals, tangents
    sixth = float(np.float32(1) / np.float32(6))
    return _hard_sigmoid(x), jnp.where(jnp.abs(x) < 3, sixth * tangent, 0).astype(x.dtype)


def hard_swish(x: jax.Array) -> jax.Array:
    """x min(max(x + 3, 0), 6) / 6, with slope 0 at -3 and 1 at 3, as in PyTorch 2.8 and later."""
    return _hard_swish(x)


@jax.custom_jvp
def _hard_swish(x: jax.Array) -> jax.Array:
    return x * (jnp.clip(x + 3, 0, 6) / 6)


@_hard_swish.defjvp
def _hard_swish_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    slope = jnp.where(x <= -3, 0, jnp.where(x < 3, x / 3 + 0.5, 1))
    return _hard_swish(x), slope.astype(x.dtype) * tangent


def leaky_relu(x: jax.Array) -> jax.Array:
    """max(x, 0) + 0.01 min(x, 0), with slope 0.01 at 0."""
    return jnp.where(x > 0, x, 0.01 * x)


def mish(x: jax.Array) -> jax.Array:
    """x tanh(log(1 + e^x))."""
    return nn.mish(x)


def sigmoid(x: jax.Array) -> jax.Array:
    """1 / (1 + e^-x)."""
    return nn.sigmoid(x)


def silu(x: jax.Array) -> jax.Array:
    """x / (1 + e^-x)."""
    return nn.silu(x)


def tanh(x: jax.Array) -> jax.Array:
    """(e^x - e^-x) / (e^x + e^-x)."""
    return jnp.tanh(x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "elu": elu,
    "gelu": exact_gelu,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "identity": identity,
    "leaky_relu": leaky_relu,
    "mish": mish,
    "relu": relu,
    "relu6": relu6,
    "sigmoid": sigmoid,
    "silu": silu,
    "tanh": tanh,
}


def get_activation(
    activation: Activation, argument: str = "activation"
) -> Callable[[jax.Array], jax.Array]:
    """Look up an activation by its name in `ACTIVATIONS`; a callable is returned unchanged, and
    None gives the identity.

    Raises: ValueError for an unknown name, listing the known ones and naming `argument`.
    """
    if activation is None:
        return identity
    if callable(activation):
        return activation
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`{argument}` (={activation!r}) must be one of {sorted(ACTIVATIONS)}, "
            "a callable or None"
        )
    return ACTIVATIONS[activation]
