"""The residual connection."""

from collections.abc import Callable

import jax
from flax import nnx

from flaxblocks.nn.drop import StochasticDepth
from flaxblocks.nn.init import full
from flaxblocks.nn.norm import BatchNorm, GroupNorm
from flaxblocks.nn.pool import AvgPool

__all__ = ["ResidualAdd", "apply", "make_stochastic_depth", "shortcut_pool", "zero_scale"]

Layer = Callable[[jax.Array], jax.Array]


def _article(block: nnx.Module):
    yield "block", "block"
    yield "shortcut", "shortcut"


class ResidualAdd(nnx.Module):
    """block(x) + shortcut(x), where the shortcut is the identity by default.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385, equations 1 and 2.
    """

    layouts = {"article": _article}

    def __init__(self, block: Layer, shortcut: Layer | None = None):
        """Join the two branches, whose outputs must have the same shape."""
        self.block = block
        self.shortcut = shortcut

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `x` `(N, H, W, C)` to the output shape of `block`.

        Raises: ValueError if the outputs of the branches differ in shape; they are not broadcast.
        """
        y = self.block(x)
        skip = x if self.shortcut is None else self.shortcut(x)
        if y.shape != skip.shape:
            raise ValueError(
                f"the block gives shape {y.shape} and the shortcut {skip.shape}: `shortcut` must "
                "map its input to the block's shape"
            )
        return y + skip.astype(y.dtype)


def apply(x: jax.Array, *layers: Layer | None) -> jax.Array:
    """Apply `layers` to `x` in turn, skipping those that are None."""
    for layer in layers:
        x = x if layer is None else layer(x)
    return x


def make_stochastic_depth(rate: float, rngs: nnx.Rngs) -> StochasticDepth | None:
    """A layer that drops a residual branch per image with probability `rate`; None for rate 0."""
    return StochasticDepth(rate, rngs=rngs) if rate else None


def shortcut_pool(stride: int) -> AvgPool | None:
    """The average pool that replaces the stride of the shortcut's convolution in ResNet-D; None for
    stride 1.

    Source: He et al. 2019, https://arxiv.org/abs/1812.01187, figure 2c.
    """
    if stride == 1:
        return None
    return AvgPool(2, stride=stride, ceil_mode=True, count_include_pad=False)


def zero_scale(norm: nnx.Module | None) -> None:
    """Set the scale of a residual branch's last norm to 0, so that the branch initially adds
    nothing.

    Source: Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1.
    """
    if isinstance(norm, BatchNorm | GroupNorm) and norm.scale is not None:
        norm.scale.set_value(full(0, norm.scale.shape, norm.scale.dtype))
