"""Checks of the arguments and inputs of layers, with errors that name argument, value and rule."""

import math
from collections.abc import Callable, Collection
from functools import partialmethod
from numbers import Integral, Real
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
from flax import nnx

__all__ = [
    "as_array",
    "as_floating",
    "check_choice",
    "check_divisible",
    "check_factor",
    "check_finite",
    "check_module",
    "check_positive",
    "check_rate",
    "is_integer",
    "is_number",
    "pair",
    "parameter_key",
    "with_defaults",
]


def pair(name: str, value: int | tuple[int, int], minimum: int = 1) -> tuple[int, int]:
    """An `int` or `(height, width)` as `(height, width)`. Raises: ValueError for anything else, or
    a value below `minimum`.
    """
    both: Any = (value, value) if is_integer(value) else value
    if not isinstance(both, (tuple, list)) or len(both) != 2 or not all(map(is_integer, both)):
        raise ValueError(f"`{name}` (={value}) must be an int or a pair of ints (height, width)")
    if min(both) < minimum:
        raise ValueError(f"`{name}` (={value}) must be at least {minimum}")
    return int(both[0]), int(both[1])


def with_defaults(init: Callable[..., None], **defaults: Any) -> Any:
    """The `__init__` of a subclass that differs from its base only in some default arguments."""
    return partialmethod(init, **defaults)


def is_integer(value: object) -> TypeGuard[int]:
    """Whether `value` is an integer of Python or NumPy; booleans are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_positive(**values: int) -> None:
    """Raise ValueError for the first value that is not an integer of at least 1."""
    for name, value in values.items():
        if not is_integer(value) or value < 1:
            raise ValueError(f"`{name}` (={value!r}) must be an integer of at least 1")


def check_finite(**values: Any) -> None:
    """Raise ValueError for the first value that is not a finite number."""
    for name, value in values.items():
        if not is_number(value):
            raise ValueError(f"`{name}` (={value!r}) must be a finite number")


def check_factor(**values: Any) -> None:
    """Raise ValueError for the first value that is not a positive, finite number."""
    check_finite(**values)
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"`{name}` (={value}) must be positive")


def is_number(value: object) -> bool:
    """Whether `value` is a finite number of Python or NumPy; booleans are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"`{name}` (={value!r}) must be one of {listed}")


def check_divisible(divisor: str, by: int, **values: int) -> None:
    """Raise ValueError for the first value not divisible by `by`, the value of argument
    `divisor`.
    """
    for name, value in values.items():
        if value % by:
            raise ValueError(f"`{name}` (={value}) must be divisible by `{divisor}` (={by})")


def check_rate(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a probability in [0, 1]."""
    if not is_number(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f"`{name}` (={value!r}) must be a probability in [0, 1]")


def check_module(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a module."""
    if isinstance(value, nnx.Module):
        return
    made = f", such as `create_model({value!r})` gives" if isinstance(value, str) else ""
    raise ValueError(f"`{name}` (a {type(value).__name__}) must be a module of Flax NNX{made}")


def parameter_key(rngs: Any) -> jax.Array:
    """The next key of the stream `params`. Raises: ValueError unless `rngs` is an `nnx.Rngs` with
    that stream.
    """
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"`rngs` (={rngs!r}) must be `nnx.Rngs`, such as `nnx.Rngs(0)`")
    if not hasattr(rngs, "params"):
        known = sorted(dict(rngs.items()))
        raise ValueError(f"`rngs` (with {known}) must have the stream 'params' or 'default'")
    return rngs.params()


def as_array(x: Any) -> jax.Array:
    """Convert a NumPy or JAX array to JAX. Raises: ValueError for anything else, such as a list."""
    if isinstance(x, jax.Array):
        return x
    if not hasattr(x, "dtype"):
        raise ValueError(
            f"`x` (of type {type(x).__name__}) must be an array, such as that of `jnp.asarray(x)`"
        )
    return jnp.asarray(x)


def as_floating(x: Any) -> jax.Array:
    """`as_array`, restricted to floating types.

    PyTorch's layers reject integers. JAX would promote them, and a network trained on normalised
    images would silently give wrong results for pixels of 0 to 255.

    Raises: ValueError as `as_array`, and for integers, booleans and complex numbers.
    """
    array = as_array(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"`x` (dtype {x.dtype}) must be of a floating type; normalise pixels of 0 to 255 by "
            "`(x.astype(np.float32) / 255 - mean) / std`, with the mean and std of the weights, or "
            "by `flaxblocks.weights.preprocess.preprocess`"
        )
    return array
