"""Building a model on the host CPU for another device.

The parameters of a model are drawn by hundreds of small programs. For a GPU each of them is
compiled, launched and fetched separately, which takes 5 to 25 seconds; the CPU needs a fraction of
that. It also makes the values the same for every device.
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
    """`build(source)`, computed on the host; its arrays are then moved to the default device,
    without being committed to it.

    It is simply `build(source)` if the default device is the host, for tracers, within
    `jax.set_mesh`, and if JAX has no CPU backend (as with `JAX_PLATFORMS=cuda`).

    Args:
        build: function that makes a module.
        source: its argument, which may contain random keys.
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
    """The CPU, if models for the default device are to be built on it; else None."""
    probe = jax.device_put(np.zeros(()))
    if isinstance(probe, Tracer) or not jax.sharding.get_abstract_mesh().empty:
        return None
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
    return None if probe.devices() == {cpu} else cpu


def _on_default_device(array: Any) -> Any:
    """An array moved to the default device, not committed and without compilation; anything else
    unchanged.
    """
    if not isinstance(array, jax.Array):
        return array
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        words = _on_default_device(jax.random.key_data(array))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(array))
    return jax.device_put(np.asarray(array))


def _move(model: nnx.Module) -> None:
    """Move the arrays of a module to the default device; shared arrays stay shared."""
    moved: dict[
        int, tuple[Any, Any]
    ] = {}  # by id; also holds the array itself, so that its id is not reused

    def move(array: Any) -> Any:
        if id(array) not in moved:
            moved[id(array)] = array, _on_default_device(array)
        return moved[id(array)][1]

    for _, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Variable):
            node.set_value(jax.tree.map(move, node.get_value()))
