"""What shows the faults of `known_bad`: each function says whether JAX computes one wrongly here.

Every number in them is an integer that its type holds exactly, so right and wrong do not depend on
rounding. They run on JAX's default device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxblocks.inspect.installation.known_bad import BadJaxlib

__all__ = ["REPRODUCTIONS", "shows_here", "squares_of_products", "sum_of_broadcast"]

CALLS = 500  # of what goes wrong where two threads meet: in one call of ten, at worst of 200


def shows_here(row: BadJaxlib) -> bool:
    """Run the reproduction of a row of `BAD_JAXLIBS` on a device of its backend."""
    with jax.default_device(jax.devices(row.backend)[0]):
        return REPRODUCTIONS[row.reproduction]()


def squares_of_products() -> bool:
    """The sum of squares of `M @ row` for each of 16,385 rows, M the identity, in float64."""
    first = np.arange(16_385, dtype=np.float64)
    rows = np.stack((first, np.zeros_like(first), np.zeros_like(first)), axis=1)
    identity = np.eye(3)

    def square(row: Any) -> jax.Array:
        return jnp.sum((identity @ row) ** 2)

    with jax.enable_x64(True):
        return bool((np.asarray(jax.jit(jax.vmap(square))(rows)) != first**2).any())


def sum_of_broadcast() -> bool:
    """The sum of 2,097,152 ones that are 1,024 broadcast; threads overwrite each other's parts, so
    it does not show where there is but one.
    """

    def total(column: Any) -> jax.Array:
        return jnp.broadcast_to(column, (2, 1024, 1024)).sum()

    column, compiled = jnp.ones((1024, 1)), jax.jit(total)
    return any(float(compiled(column)) != 2 * 1024 * 1024 for _ in range(CALLS))


REPRODUCTIONS: dict[str, Callable[[], bool]] = {
    function.__name__: function for function in (squares_of_products, sum_of_broadcast)
}
