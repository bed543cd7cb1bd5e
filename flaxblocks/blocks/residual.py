"""The residual connection."""

from collections.abc import Callable

import jax
from flax import nnx

__all__ = ["ResidualAdd"]

Layer = Callable[[jax.Array], jax.Array]


def _article(block: nnx.Module):
    yield "block", "block"
    yield "shortcut", "shortcut"


class ResidualAdd(nnx.Module):
    """block(x) + shortcut(x), the shortcut being the identity unless one is given.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385, equations 1 and 2.
    """

    dialects = {"article": _article}

    def __init__(self, block: Layer, shortcut: Layer | None = None):
        """Join the two branches, which must give the same shape."""
        self.block = block
        self.shortcut = shortcut

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(N, H, W, C)` to the shape that `block` gives.

        Raises: ValueError if the branches differ in shape: nothing is broadcast.
        """
        y = self.block(x)
        skip = x if self.shortcut is None else self.shortcut(x)
        if y.shape != skip.shape:
            raise ValueError(
                f"the block gives shape {y.shape} and the shortcut {skip.shape}: `shortcut` must "
                "map its input to the block's shape"
            )
        return y + skip.astype(y.dtype)
