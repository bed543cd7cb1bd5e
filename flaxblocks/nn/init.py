"""Initialisers, PyTorch's defaults among them, drawn in chunks of one size.

A model has dozens of kernel shapes, and XLA compiles a program for each shape that is drawn: seven
seconds for MobileNetV2 before it does anything. Here every draw is made of chunks of one size, so
one program serves all of them. Under `jax.jit` the values are the same, to the last bit.

A model can also be built without drawing, or with some of its draws only (`undrawn`): one that a
checkpoint fills has no use for them.
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

if TYPE_CHECKING:  # as Flax has it, where an abstract model's values are arrays to the checker too
    Value = jax.Array
else:
    Value = jax.Array | jax.ShapeDtypeStruct  # the latter within `undrawn`
Initializer = Callable[[jax.Array, tuple[int, ...], DTypeLike], Value]
CHUNK = 1 << 14  # values


@dataclass
class _Undrawn:
    """The draws of a build, in order, and which of them are made nevertheless."""

    but: Collection[int]
    shapes: list[jax.ShapeDtypeStruct] = field(default_factory=list)


_undrawn: ContextVar[_Undrawn | None] = ContextVar("undrawn", default=None)


@contextmanager
def undrawn(but: Collection[int] = ()) -> Iterator[list[jax.ShapeDtypeStruct]]:
    """Within it parameters and buffers are shapes and dtypes in place of arrays, as
    `nnx.eval_shape` gives them in five times the time; random streams are real.

    Args:
        but: the draws that are made nevertheless, by their numbers: a model makes its draws in the
            same order each time that it is built.

    Yields: a list that fills with the shape of each draw, in order. It is the same object that
        stands in the place of the array.
    """
    state = _Undrawn(but)
    token = _undrawn.set(state)
    try:
        yield state.shapes
    finally:
        _undrawn.reset(token)


def _left_out(shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """What stands for the next draw within `undrawn`; None if it is to be made."""
    state = _undrawn.get()
    if state is None:
        return None
    number = len(state.shapes)
    state.shapes.append(jax.ShapeDtypeStruct(shape, dtype))
    return None if number in state.but else state.shapes[number]


def make_rngs(keys: Mapping[str, int | jax.Array]) -> nnx.Rngs:
    """Random streams from their keys. Where nothing at all is drawn, the stream `params` gives one
    key for ever.
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
    """PyTorch's default for convolution and linear layers, kernel and bias: U(-b, b), b =
    fan_in^-1/2.

    Args:
        key: a JAX random key.
        shape: of the result; a kernel's is `(..., in_features, out_features)`.
        dtype: of the result.
        fan_in: inputs that each output sums; None takes it from a kernel's `shape`.
    """
    return _draw("uniform", key, shape, dtype, (fan_in or math.prod(shape[:-1])) ** -0.5)


def kaiming_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Value:
    """Normal with variance 2 / fan_out, fan_out being the taps of a kernel times its out_features.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852, section 2.2, the backward case.
    """
    return normal(key, shape, dtype, std=(2.0 / (math.prod(shape[:-2]) * shape[-1])) ** 0.5)


def kaiming_normal_fan_out_depthwise(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike
) -> Value:
    """`kaiming_normal_fan_out`, where a depthwise kernel's fan_out is the taps of one channel.

    TensorFlow's and timm's form; torchvision counts all channels. A kernel with one input channel
    is taken for a depthwise one.
    """
    fan_out = math.prod(shape[:-2]) * (1 if shape[-2] == 1 else shape[-1])
    return normal(key, shape, dtype, std=(2.0 / fan_out) ** 0.5)


def uniform_fan_out(
    key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, gain: float = 1.0
) -> Value:
    """U(-b, b), b = gain * out_features^-1/2, for the kernel of a linear layer.

    timm's for the heads of mobile networks, and torchvision's for EfficientNet's; torchvision's
    MnasNet has gain 3^1/2, which makes the variance 1 / out_features.
    """
    return _draw("uniform", key, shape, dtype, gain * shape[-1] ** -0.5)


def normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, std: float = 0.01) -> Value:
    """Normal about 0 with standard deviation `std`."""
    return _draw("normal", key, shape, dtype, std)


def zeros(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Value:
    """Zeros; `key` is not used."""
    return full(0, shape, dtype)


def full(value: int, shape: tuple[int, ...], dtype: DTypeLike) -> Value:
    """A constant that XLA need not compile a program for: models have hundreds, of dozens of
    shapes.
    """
    left_out = _left_out(shape, dtype)
    return _array(np.full(shape, value, dtype)) if left_out is None else left_out


def _array(values: np.ndarray) -> jax.Array:
    """As `jnp.asarray`, which however compiles a program for each shape."""
    on_a_mesh = not jax.sharding.get_abstract_mesh().empty  # of `jax.set_mesh`, where it puts it
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
        # Or XLA computes only what is taken of a chunk, in a loop that rounds otherwise.
        stream = lax.optimization_barrier(stream)
        return stream.reshape(-1)[:count].reshape(shape)
    with jax.ensure_compile_time_eval():  # also within a `jax.jit` that closes over `key`
        chunks = [np.asarray(_chunk(kind, key, index, dtype, scale)) for index in indices]
    return _array(np.concatenate(chunks)[:count].reshape(shape))
