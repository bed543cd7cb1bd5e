"""Pooling with PyTorch's semantics: symmetric padding, `ceil_mode`, max pooling padded with -inf.

`MaxPool` and `AvgPool` wrap the functions as modules, for models whose PyTorch original has the
pool as a module: a module has a name, which `parity.compare` and `flaxblocks info` show.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from flaxblocks.nn.arguments import as_array, as_floating, check_choice, check_positive, pair
from flaxblocks.nn.conv import conv2d
from flaxblocks.nn.titles import pool_title

__all__ = [
    "Antialias",
    "AvgPool",
    "BlurPool",
    "MaxPool",
    "adaptive_avg_pool",
    "avg_pool",
    "global_avg_pool",
    "make_antialias",
    "max_pool",
]

Pair = tuple[int, int]
Antialias = Literal["avg", "blur"] | None


def _window(
    size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool
) -> tuple[int, int]:
    """Output pixels along one axis, and the padding after the image that makes the windows fit."""
    reach = dilation * (kernel - 1) + 1
    room = size + 2 * padding - reach
    if room < (1 - stride if ceil_mode else 0):  # `ceil_mode` lets a window hang over the edge
        raise ValueError(
            f"a window of {reach} pixels does not fit an image of {size} padded by {padding}"
        )
    count = room // stride + 1
    if ceil_mode:
        count = math.ceil(room / stride) + 1
        if (count - 1) * stride >= size + padding:  # a window must start inside the image
            count -= 1
    after = max((count - 1) * stride + reach - size - padding, 0)
    return count, after


def _padding(
    x: jax.Array, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil_mode: bool
) -> list[tuple[int, int]]:
    for k, p in zip(kernel, padding, strict=True):
        if 2 * p > k:
            raise ValueError(
                f"`padding` (={padding}) must be at most half of `kernel_size` (={kernel})"
            )
    spatial = zip(x.shape[1:3], kernel, stride, padding, dilation, strict=True)
    return [
        (0, 0),
        *((p, _window(n, k, s, p, d, ceil_mode)[1]) for n, k, s, p, d in spatial),
        (0, 0),
    ]


def max_pool(
    x: Float[Array, "N H W C"],
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    ceil_mode: bool = False,
) -> Float[Array, "N Ho Wo C"]:
    """`torch.nn.functional.max_pool2d` on `(N, H, W, C)`; `stride` defaults to `kernel_size`.

    Raises: ValueError if `x` is not an array, the padding exceeds half the kernel, or the window
        exceeds the padded image.
    """
    x = as_array(x)
    kernel, pads = pair("kernel_size", kernel_size), pair("padding", padding, minimum=0)
    strides = kernel if stride is None else pair("stride", stride)
    dilations = pair("dilation", dilation)
    padding_all = _padding(x, kernel, strides, pads, dilations, ceil_mode)
    if dilations != (1, 1):
        return _dilated_max(x, kernel, strides, dilations, padding_all)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *kernel, 1), (1, *strides, 1), padding_all)


def _dilated_max(
    x: jax.Array, kernel: Pair, strides: Pair, dilations: Pair, padding: list[Pair]
) -> jax.Array:
    """The maximum over shifted images, because JAX cannot differentiate a dilated `reduce_window`.

    Of several equal values, the first receives the gradient, as in PyTorch.
    """
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    height, width = (
        size - d * (k - 1) for size, k, d in zip(padded.shape[1:3], kernel, dilations, strict=True)
    )
    corners = [
        (i * dilations[0], j * dilations[1]) for i in range(kernel[0]) for j in range(kernel[1])
    ]
    windows = jnp.stack(
        [
            padded[:, top : top + height : strides[0], left : left + width : strides[1]]
            for top, left in corners
        ]
    )
    first = jnp.argmax(windows, 0, keepdims=True)
    return jnp.take_along_axis(windows, first, 0)[0]


def avg_pool(
    x: Float[Array, "N H W C"],
    kernel_size: int | Pair,
    *,
    stride: int | Pair | None = None,
    padding: int | Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "N Ho Wo C"]:
    """`torch.nn.functional.avg_pool2d` on `(N, H, W, C)`; `stride` defaults to `kernel_size`.

    The sum is divided by the number of window pixels that lie in the padded image, or in the image
    itself if `count_include_pad` is False. Pixels beyond the padding, which `ceil_mode` adds, never
    count.

    Raises: ValueError if `x` is not of a floating type, the padding exceeds half the kernel, or the
        window exceeds the padded image.
    """
    x = as_floating(x)
    kernel, pads = pair("kernel_size", kernel_size), pair("padding", padding, minimum=0)
    strides = kernel if stride is None else pair("stride", stride)
    padding_all = _padding(x, kernel, strides, pads, (1, 1), ceil_mode)

    def windows_sum(values: jax.Array, padding: list[tuple[int, int]]) -> jax.Array:
        # A NumPy zero: with a traced one, JAX does not recognise the sum under `jax.jit` and cannot
        # differentiate it.
        zero = np.zeros((), values.dtype)
        return lax.reduce_window(values, zero, lax.add, (1, *kernel, 1), (1, *strides, 1), padding)

    # float16 and bfloat16 are summed in float32: in bfloat16 a sum of ones stops at 256.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    counted = jnp.ones((1, *x.shape[1:3], 1), wide)
    counted_padding = padding_all
    if count_include_pad:
        counted = jnp.pad(counted, [(0, 0), *((p, p) for p in pads), (0, 0)], constant_values=1)
        beyond = [(0, max(hi - p, 0)) for (_, hi), p in zip(padding_all[1:3], pads, strict=True)]
        counted_padding = [(0, 0), *beyond, (0, 0)]
    mean = windows_sum(x.astype(wide), padding_all) / windows_sum(counted, counted_padding)
    return mean.astype(x.dtype)


def global_avg_pool(x: Float[Array, "N H W C"]) -> Float[Array, "N C"]:
    """Average over height and width, `(N, H, W, C)` to `(N, C)`.

    Raises: ValueError if `x` is not of a floating type.
    """
    return lax.platform_dependent(as_floating(x), cpu=_mean_of_rows, default=_mean_of_pixels)


def _mean_of_pixels(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))


def _mean_of_rows(x: jax.Array) -> jax.Array:
    """The mean over all pixels, as the mean of the rows' means.

    XLA's CPU backend adds up to 1,024 pixels one after another. This gives three times the rounding
    error of PyTorch's mean, which a batch norm in a gate amplifies, because the means of different
    images are close to each other.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide.mean(2).mean(1).astype(x.dtype)


def adaptive_avg_pool(
    x: Float[Array, "N H W C"], output_size: int | Pair
) -> Float[Array, "N Ho Wo C"]:
    """`torch.nn.functional.adaptive_avg_pool2d`: cell `i` of `n` is the mean over
    [floor(i H / n), ceil((i + 1) H / n)).

    Raises: ValueError if `x` is not of a floating type or `output_size` is not positive.
    """
    x = as_floating(x)
    rows, columns = pair("output_size", output_size)

    def averaged(values: jax.Array, axis: int, cells: int) -> jax.Array:
        size = values.shape[axis]
        bounds = [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]
        means = [lax.slice_in_dim(values, *ends, axis=axis).mean(axis) for ends in bounds]
        return jnp.stack(means, axis)

    # All cells in a row have the same height, so averaging height and width separately is exact.
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return averaged(averaged(wide, 1, rows), 2, columns).astype(x.dtype)


class Pool(nnx.Module):
    """Base of the pools: no variables, and no multiply-adds in the published counts."""

    torch_names = ()

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """0, as in the published counts."""
        return 0


class MaxPool(Pool):
    """`torch.nn.MaxPool2d`: `max_pool` as a module."""

    def __init__(
        self,
        kernel_size: int | Pair,
        *,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        ceil_mode: bool = False,
    ):
        """Store the arguments for `max_pool`. Raises: ValueError if one is out of range."""
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("stride", stride)
        self.padding = pair("padding", padding, minimum=0)
        self.dilation = pair("dilation", dilation)
        self.ceil_mode = ceil_mode

    @property
    def title(self) -> str:
        """A short description, such as `3x3 max pool, stride 2`."""
        return pool_title(self.kernel_size, "max pool", self.stride)

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N Ho Wo C"]:
        """The maximum of each window, `(N, H, W, C)` to `(N, Ho, Wo, C)`."""
        return max_pool(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
        )


class AvgPool(Pool):
    """`torch.nn.AvgPool2d`: `avg_pool` as a module."""

    def __init__(
        self,
        kernel_size: int | Pair,
        *,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        """Store the arguments for `avg_pool`. Raises: ValueError if one is out of range."""
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else pair("stride", stride)
        self.padding = pair("padding", padding, minimum=0)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    @property
    def title(self) -> str:
        """A short description, such as `3x3 average pool, stride 2`."""
        return pool_title(self.kernel_size, "average pool", self.stride)

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N Ho Wo C"]:
        """The mean of each window, `(N, H, W, C)` to `(N, Ho, Wo, C)`."""
        return avg_pool(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
        )


class BlurPool(Pool):
    """A 3x3 binomial filter with a stride, on an image padded by reflection.

    Source: Zhang 2019, https://arxiv.org/abs/1904.11486, section 3.2.
    """

    def __init__(self, stride: int = 2):
        """Set `stride`, the pixels between windows. Raises: ValueError if it is not positive."""
        check_positive(stride=stride)
        self.stride = stride

    @property
    def title(self) -> str:
        """A short description, such as `3x3 blur, stride 2`."""
        return pool_title((3, 3), "blur", (self.stride, self.stride))

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N Ho Wo C"]:
        """Blur `x` `(N, H, W, C)` to `(N, ceil(H / stride), ceil(W / stride), C)`.

        Raises: ValueError if `x` is not of a floating type.
        """
        x = as_floating(x)
        channels = x.shape[-1]
        taps = np.outer((1, 2, 1), (1, 2, 1)) / 16
        kernel = jnp.broadcast_to(jnp.asarray(taps, x.dtype)[..., None, None], (3, 3, 1, channels))
        padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
        return conv2d(padded, kernel, stride=self.stride, groups=channels)


def make_antialias(kind: Antialias, stride: int) -> AvgPool | BlurPool | None:
    """The pool that replaces the stride of the preceding convolution.

    Args:
        kind: "avg", "blur" or None.
        stride: the stride to replace.

    Returns: None if `kind` is None or `stride` is 1.
    Raises: ValueError for an unknown kind.
    """
    check_choice("antialias", kind, ("avg", "blur", None))
    if kind is None or stride == 1:
        return None
    return AvgPool(stride) if kind == "avg" else BlurPool(stride)
