"""The positions of a convolution's windows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["Geometry", "conv_output_size", "pad", "plain_conv", "window"]

Pair = tuple[int, int]


def conv_output_size(size: int, kernel_size: int, stride: int, padding: Pair, dilation: int) -> int:
    """Output pixels along one axis, where `padding` is the zeros (before, after) the image:
    `(size + before + after - dilation (kernel - 1) - 1) // stride + 1`.
    """
    return (size + sum(padding) - dilation * (kernel_size - 1) - 1) // stride + 1


class Geometry(NamedTuple):
    """The window positions of a convolution, each field for (height, width).

    Attributes:
        stride: pixels between windows.
        padding: zeros (before, after) the image.
        dilation: pixels between taps.
    """

    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair

    def output(self, size: tuple[int, ...], kernel: tuple[int, ...]) -> Pair:
        """Output pixels for an image of `size` and a kernel of `kernel` taps."""
        height, width = (conv_output_size(*axis) for axis in zip(size, kernel, *self, strict=True))
        return height, width


def plain_conv(x: jax.Array, kernel: jax.Array, geometry: Geometry, groups: int = 1) -> jax.Array:
    """XLA's own convolution of `(N, H, W, C)` with `(kh, kw, C // groups, O)`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=geometry.stride,
        padding=geometry.padding,
        rhs_dilation=geometry.dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def pad(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The image padded with zeros."""
    return jnp.pad(x, [(0, 0), *geometry.padding, (0, 0)])


def window(padded: jax.Array, i: int, j: int, output: Pair, geometry: Geometry) -> jax.Array:
    """The pixels of a padded image that tap (i, j) multiplies, `(N, *output, C)`."""
    batch, _, _, channels = padded.shape
    first = [t * d for t, d in zip((i, j), geometry.dilation, strict=True)]
    last = [f + (n - 1) * s + 1 for f, n, s in zip(first, output, geometry.stride, strict=True)]
    return lax.slice(padded, (0, *first, 0), (batch, *last, channels), (1, *geometry.stride, 1))
