"""Building a model on the host, for another device.

A model's parameters are drawn by hundreds of small programs. A GPU compiles, starts and fetches
each of them on its own: 5 to 25 seconds, of which the CPU needs a fraction. The values are then
those of the CPU, whatever the device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

__all__ = ["built_on_host"]


def built_on_host(build: Callable[[Any], nnx.Module], source: Any) -> Any:
    """`build(source)`, computed on the host, its arrays in the end on the default device and bound
    to none: not committed.

    Without another default device than the host it is just that; so it is for tracers, within
    `jax.set_mesh`, and where JAX has no CPU (as with `JAX_PLATFORMS=cuda`).

    Args:
        build: what makes a module.
        source: what it draws from, random keys among it.
    """
    host = None if _is_traced(source) else _host()
    if host is None:
        return build(source)
    with jax.default_device(host):
        model = build(jax.tree.map(_on_default_device, source))
    _move(model)
    return model


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def _host() -> Any:
    """The CPU, where it is to build a model for the default device; else None."""
    probe = jax.device_put(np.zeros(()))
    if isinstance(probe, Tracer) or not jax.sharding.get_abstract_mesh().empty:
        return None
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    return None if probe.devices() == {cpu} else cpu


def _on_default_device(array: Any) -> Any:
    """An array there, not committed; anything else as it is. No program is compiled for it."""
    if not isinstance(array, jax.Array):
        return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        words = _on_default_device(jax.random.key_data(array))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(array))
    return jax.device_put(np.asarray(array))


def _move(model: nnx.Module) -> None:
    """Put the arrays of a module on the default device; one that two variables share stays one."""
    moved: dict[int, tuple[Any, Any]] = {}  # with the array itself, so that its id stays its own

    def move(array: Any) -> Any:
        if id(array) not in moved:
            moved[id(array)] = array, _on_default_device(array)
        return moved[id(array)][1]

    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Variable):
            node.set_value(jax.tree.map(move, node.get_value()))
