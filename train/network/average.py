"""An exponential moving average of parameters and buffers, as in torch.optim.swa_utils."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Average", "update_average"]


class Average(NamedTuple):
    """The averages of parameters and buffers, and the number of updates since the last restart."""

    params: Any
    buffers: Any
    updates: jax.Array


def update_average(
    average: Average, params: Any, buffers: Any, *, decay: float, due: jax.Array, anew: jax.Array
) -> Average:
    """Update the average as `AveragedModel(use_buffers=True)` with `get_ema_multi_avg_fn(decay)`.

    The first update copies the values, later ones compute decay * average + (1 - decay) * value;
    integers, such as the count of batches, are always copied.

    Args:
        average: the average so far.
        params: parameters after the step.
        buffers: buffers after the step.
        decay: weight of the old average.
        due: whether this step updates the average.
        anew: whether the average restarts from a copy, as throughout warm-up.
    """
    first = anew | (average.updates == 0)

    def moved(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.floating):
            return jnp.where(due, new, old)
        return jnp.where(due, jnp.where(first, new, decay * old + (1 - decay) * new), old)

    return Average(
        jax.tree.map(moved, average.params, params),
        jax.tree.map(moved, average.buffers, buffers),
        jnp.where(due, jnp.where(anew, 0, average.updates + 1), average.updates),
    )
