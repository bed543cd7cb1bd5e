"""Reproductions of the faults in `known_bad`: each function returns whether the fault occurs here.

All numbers in them are integers that their dtype represents exactly, so the results do not depend
on rounding. They run on JAX's default device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxblocks.inspect.installation.known_bad import BadJaxlib

__all__ = ["REPRODUCTIONS", "shows_here", "squares_of_products", "sum_of_broadcast"]

CALLS = 500  # repetitions of a race of two threads, which occurs in one call of 10 to 200


def shows_here(row: BadJaxlib) -> bool:
    """Run the reproduction of a row of `BAD_JAXLIBS` on a device of its backend."""
    with jax.default_device(jax.devices(row.backend)[0]):
        return REPRODUCTIONS[row.reproduction]()


def squares_of_products() -> bool:
    """Whether the sum of squares of `M @ row` is wrong for any of 16,385 rows, with M the identity,
    in float64.
    """
    first = np.arange(16_385, dtype=np.float64)
    rows = np.stack((first, np.zeros_like(first), np.zeros_like(first)), axis=1)
    identity = np.eye(3)

    def square(row: Any) -> jax.Array:
        return jnp.sum((identity @ row) ** 2)

    with jax.enable_x64(True):
        return bool((np.asarray(jax.jit(jax.vmap(square))(rows)) != first**2).any())


def sum_of_broadcast() -> bool:
    """Whether the sum of 2,097,152 ones, broadcast from 1,024, is wrong. Threads overwrite each
    other's partial sums, so the fault does not occur with a single thread.
    """

    def total(column: Any) -> jax.Array:
        return jnp.broadcast_to(column, (2, 1024, 1024)).sum()

    column, compiled = jnp.ones((1024, 1)), jax.jit(total)
    return any(float(compiled(column)) != 2 * 1024 * 1024 for _ in range(CALLS))


REPRODUCTIONS: dict[str, Callable[[], bool]] = {
    function.__name__: function for function in (squares_of_products, sum_of_broadcast)
}
