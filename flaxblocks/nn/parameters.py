"""The number of parameters of a module, with and without its submodules."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from flax import nnx

__all__ = ["count_parameters", "own_parameters"]


def count_parameters(module: nnx.Module) -> int:
    """The number of trainable parameters of a module; running statistics are not included."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def own_parameters(module: nnx.Module) -> int:
    """The number of parameters that a module holds itself or in its containers, without those of
    its submodules.
    """
    own, seen, pending = 0, {id(module)}, list(_attributes(module))
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, nnx.Param):
            own += sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(node))
        elif not (isinstance(node, nnx.Module) and callable(node)):
            pending += _attributes(node)
    return own


def _attributes(node: Any) -> Iterable[Any]:
    """The attributes of a module or the items of a container; empty for anything else."""
    if isinstance(node, nnx.Module):
        return vars(node).values()
    if isinstance(node, Mapping):
        return node.values()
    return node if isinstance(node, list | tuple) else ()
