"""Parameter initialisers, including PyTorch's defaults, drawn in chunks of a fixed size.

A model has dozens of kernel shapes, and XLA compiles a program for each shape that is drawn, which
takes seven seconds for MobileNetV2. Here every draw consists of chunks of one size, so a single
program serves them all. The values under `jax.jit` are the same to the last bit.

With `undrawn`, a model can be built without drawing, or with only some of its draws: a model that a
checkpoint fills does not need them.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike

from flaxblocks.nn.host_random import HostStream, words_of

__all__ = [
    "Initializer",
    "full",
    "kaiming_normal_fan_out",
    "kaiming_normal_fan_out_depthwise",
    "make_rngs",
    "normal",
    "undrawn",
    "uniform_fan_in",
    "uniform_fan_out",
    "zeros",
]

if TYPE_CHECKING:  # as in Flax, whose abstract values count as arrays for the type checker too
    Value = jax.Array
else:
    Value = jax.Array | jax.ShapeDtypeStruct  # a shape and dtype only within `undrawn`
Initializer = Callable[[jax.Array, tuple[int, ...], DTypeLike], Value]
CHUNK = 1 << 14  # values


@dataclass
class _Undrawn:
    """The draws of a build, in order, and the numbers of those that are made anyway."""

    but: Collection[int]
    shapes: list[jax.ShapeDtypeStruct] = field(default_factory=list)


_undrawn: ContextVar[_Undrawn | None] = ContextVar("undrawn", default=None)


@contextmanager
def undrawn(but: Collection[int] = ()) -> Iterator[list[jax.ShapeDtypeStruct]]:
    """Build models within this context with `jax.ShapeDtypeStruct`s in place of arrays.

    The result is that of `nnx.eval_shape` in a fifth of the time, except that random streams are
    real.

    Args:
        but: numbers of the draws that are made anyway. A model makes its draws in the same order
            each time that it is built.

    Yields: a list to which each draw appends its `jax.ShapeDtypeStruct`, the same object that the
        model holds in place of the array.
    """
    state = _Undrawn(but)
    token = _undrawn.set(state)
    try:
        yield state.shapes
    finally:
        _undrawn.reset(token)


def _left_out(shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """The stand-in for the next draw within `undrawn`; None if the draw is to be made."""
    state = _undrawn.get()
    if state is None:
        return None
    number = len(state.shapes)
    state.shapes.append(jax.ShapeDtypeStruct(shape, dtype))
    return None if number in state.but else state.shapes[number]


def make_rngs(keys: Mapping[str, int | jax.Array]) -> nnx.Rngs:
    """Random streams from their keys or seeds. If no parameter is to be drawn, the stream `params`
    returns the same key at each call.
    """
    state = _undrawn.get()
    rngs = nnx.Rngs(**keys)
    if state is None or state.but:
        return rngs
    words = {name: words_of(key) for name, key in keys.items()}
    for name, pair in words.items():
        if pair is not None:
            setattr(rngs, name, HostStream(pair, tag=name))
    key = rngs.params()
    setattr(rngs, "params", lambda: key)  # noqa: B010
    return rngs


def uniform_fan_in(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, fan_in: int | None = None
) -> Value:
    """PyTorch's default for kernels and biases of convolution and linear layers: U(-b, b) with
    b = fan_in^-1/2.

    Args:
        key: a JAX random key.
        shape: shape of the result; for a kernel `(..., in_features, out_features)`.
        dtype: dtype of the result.
        fan_in: number of inputs that each output sums; by default that of a kernel of this `shape`.
    """
    return _draw("uniform", key, shape, dtype, (fan_in or math.prod(shape[:-1])) ** -0.5)


def kaiming_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Value:
    """N(0, 2 / fan_out), where fan_out is the number of taps of a kernel times its out_features.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852, section 2.2, the backward case.
    """
    return normal(key, shape, dtype, std=(2.0 / (math.prod(shape[:-2]) * shape[-1])) ** 0.5)


def kaiming_normal_fan_out_depthwise(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> Value:
    """`kaiming_normal_fan_out`, but with the number of taps as the fan_out of a depthwise kernel.

    TensorFlow and timm use this form; torchvision counts all output channels. A kernel with one
    input channel is assumed to be depthwise.
    """
    fan_out = math.prod(shape[:-2]) * (1 if shape[-2] == 1 else shape[-1])
    return normal(key, shape, dtype, std=(2.0 / fan_out) ** 0.5)


def uniform_fan_out(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, gain: float = 1.0
) -> Value:
    """U(-b, b) with b = gain * out_features^-1/2, for the kernel of a linear layer.

    Used by timm for the heads of mobile networks and by torchvision for that of EfficientNet;
    torchvision's MnasNet has gain 3^1/2, which gives the variance 1 / out_features.
    """
    return _draw("uniform", key, shape, dtype, gain * shape[-1] ** -0.5)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, std: float = 0.01) -> Value:
    """N(0, std^2)."""
    return _draw("normal", key, shape, dtype, std)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Value:
    """Zeros; `key` is not used."""
    return full(0, shape, dtype)


def full(value: int, shape: tuple[int, ...], dtype: DTypeLike) -> Value:
    """A constant array, made without an XLA program: models have hundreds, of dozens of shapes."""
    left_out = _left_out(shape, dtype)
    return _array(np.full(shape, value, dtype)) if left_out is None else left_out


def _array(values: np.ndarray) -> jax.Array:
    """As `jnp.asarray`, but without compiling a program for each shape."""
    # Under `jax.set_mesh`, `jnp.asarray` places the array on the mesh.
    on_a_mesh = not jax.sharding.get_abstract_mesh().empty
    return jnp.asarray(values) if on_a_mesh else jax.device_put(values)


@partial(jax.jit, static_argnames=("kind", "dtype"))
def _chunk(
    kind: str,
    key: jax.Array,
    index: jax.Array | np.uint32,
    dtype: DTypeLike,
    scale: jax.Array | float,
) -> jax.Array:
    """Chunk `index` of an endless stream: U(-scale, scale) or N(0, scale^2)."""
    key = jax.random.fold_in(key, index)
    if kind == "uniform":
        return jax.random.uniform(key, (CHUNK,), dtype, -1, 1) * jnp.asarray(scale, dtype)
    return jax.random.normal(key, (CHUNK,), dtype) * jnp.asarray(scale, dtype)


def _draw(
    kind: Literal["uniform", "normal"],
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    scale: float,
) -> Value:
    left_out = _left_out(shape, dtype)
    if left_out is not None:
        return left_out
    count = math.prod(shape)
    indices = np.arange(-(-count // CHUNK), dtype=np.uint32)
    dtype = jnp.dtype(dtype)
    if isinstance(key, jax.core.Tracer):
        stream = jax.vmap(lambda index: _chunk(kind, key, index, dtype, scale))(indices)
        # Otherwise XLA computes only the part of a chunk that is used, in a loop that rounds
        # differently.
        stream = lax.optimization_barrier(stream)
        return stream.reshape(-1)[:count].reshape(shape)
    with jax.ensure_compile_time_eval():  # even within a `jax.jit` that closes over `key`
        chunks = [np.asarray(_chunk(kind, key, index, dtype, scale)) for index in indices]
    return _array(np.concatenate(chunks)[:count].reshape(shape))
