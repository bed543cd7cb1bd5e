"""Two-dimensional convolution with PyTorch's semantics, in the formulation fastest on each device.

Padding is explicit and symmetric, as in PyTorch. "SAME" is the padding of TensorFlow and JAX: it
adds the zeros that give `ceil(size / stride)` output pixels, an odd one after the image, so at
stride 2 it is asymmetric and depends on the image size. Networks trained in TensorFlow need it.

`conv2d` also chooses the formulation. XLA's CPU backend runs a depthwise convolution 20 to 90 times
slower than its arithmetic requires, a grouped one 2 to 6 times slower, and a 1x1 convolution slower
than a matrix product, so on CPU they are computed as sums of products and as matrix products. On
GPU and TPU every shape uses XLA's convolution, except a 1x1 convolution of a single pixel, as in a
squeeze-and-excite gate. That one is a matrix product on every device: XLA passes the constant that
follows a convolution (1/HW in the gradient of the gate's pooling) to cuDNN, which rounds it to
float32 even if the data are float64 (NVIDIA/cudnn-frontend#423).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.nn.arguments import (
    as_floating,
    check_divisible,
    check_positive,
    pair,
    parameter_key,
)
from flaxblocks.nn.counts import count_convolution
from flaxblocks.nn.forms.depthwise import depthwise
from flaxblocks.nn.forms.grouped import grouped, separate_groups
from flaxblocks.nn.forms.windows import Geometry, conv_output_size, plain_conv
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.linear import matrix_product
from flaxblocks.nn.titles import convolution_title
from flaxblocks.nn.torch_names import CONVOLUTION

__all__ = ["Conv", "Padding", "conv2d"]

Pair = tuple[int, int]
Padding = int | Pair | Literal["SAME"]

# On CPU a grouped convolution becomes a sum of products if each output value needs at most
# `MOST_PRODUCTS` of them (8 channels with 3x3 taps), else at most `MOST_CONVOLUTIONS` separate
# convolutions. More of either compile slowly.
MOST_PRODUCTS = 72
MOST_CONVOLUTIONS = 16


# Not `inline`: outside of `jit`, the gradient of an inlined function would be transposed and
# compiled again at each call, while that of a called function is cached. Within `jit`, XLA compiles
# both into one program.
@partial(jax.jit, static_argnames=("stride", "padding", "dilation", "groups"))
def conv2d(
    x: Float[Array, "N H W C"],
    kernel: Float[Array, "kh kw I O"],
    *,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Float[Array, "N Ho Wo O"]:
    """Cross-correlate `x` with `kernel`, as `torch.nn.functional.conv2d` without a bias.

    Args:
        x: `(N, H, W, C)`.
        kernel: `(kh, kw, C // groups, O)`; output channel `o` belongs to group `o // (O //
            groups)`.
        stride: pixels between windows, an int or (height, width).
        padding: zeros added on each side, an int or (height, width), or TensorFlow's "SAME".
        dilation: pixels between taps, an int or (height, width).
        groups: number of channel groups that are convolved separately.

    Returns: `(N, Ho, Wo, O)`, where `conv_output_size` gives `Ho` and `Wo`.
    """
    strides, dilations = pair("stride", stride), pair("dilation", dilation)
    sides = _sides(padding, x.shape[1:3], kernel.shape[:2], strides, dilations)
    geometry = Geometry(strides, sides, dilations)
    if x.shape[1:3] == (1, 1) and _is_pointwise(kernel.shape, geometry, groups):
        return matrix_product(x[:, 0, 0], kernel[0, 0])[:, None, None]
    plain = partial(plain_conv, geometry=geometry, groups=groups)
    on_cpu = _cpu_formulation(kernel.shape, x.shape[-1], geometry, groups)
    if on_cpu is None:
        return plain(x, kernel)
    form = partial(on_cpu, geometry=geometry, groups=groups)
    return lax.platform_dependent(x, kernel, cpu=form, default=plain)


def _sides(
    padding: Padding, size: Sequence[int], kernel: Sequence[int], stride: Pair, dilation: Pair
) -> tuple[Pair, Pair]:
    """The number of zeros (before, after) the image, for height and width."""
    if padding != "SAME":
        height, width = pair("padding", padding, minimum=0)
        return (height, height), (width, width)
    height, width = map(_same_sides, size, kernel, stride, dilation)
    return height, width


def _same_sides(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """TensorFlow's "SAME" padding along one axis, as (before, after)."""
    windows = -(-size // stride)
    total = max((windows - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _is_pointwise(kernel_shape: tuple[int, ...], geometry: Geometry, groups: int) -> bool:
    """Whether the convolution multiplies each pixel separately by a matrix."""
    return groups == 1 and kernel_shape[:2] == (1, 1) and geometry.padding == ((0, 0), (0, 0))


def _cpu_formulation(
    kernel_shape: tuple[int, ...], in_features: int, geometry: Geometry, groups: int
) -> Callable[..., jax.Array] | None:
    """The formulation that is faster than XLA's convolution on CPU for this shape, or None."""
    *taps, width, _ = kernel_shape
    if _is_pointwise(kernel_shape, geometry, groups):
        return _as_matrix_product
    if groups == 1:
        return None
    if groups == in_features:
        return _as_shifted_products
    if math.prod(taps) * width <= MOST_PRODUCTS:
        return _as_grouped_products
    return separate_groups if groups <= MOST_CONVOLUTIONS else None


def _as_matrix_product(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, groups: int
) -> jax.Array:
    """A 1x1 convolution as the strided pixels times the (C, O) matrix.

    The pixels are flattened to one axis. The kernel's gradient would otherwise contract three axes,
    for which XLA first transposes the image, and that takes ten times longer than the product.
    """
    x = x[:, :: geometry.stride[0], :: geometry.stride[1], :]
    y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _as_shifted_products(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, groups: int
) -> jax.Array:
    """A depthwise convolution, with float16 and bfloat16 summed in float32, as in cuDNN."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    taps = kernel.astype(wide).reshape(*kernel.shape[:2], groups, -1)
    y = depthwise(x.astype(wide), taps, geometry)
    return y.reshape(*y.shape[:3], kernel.shape[-1]).astype(x.dtype)


def _as_grouped_products(
    x: jax.Array, kernel: jax.Array, geometry: Geometry, groups: int
) -> jax.Array:
    """A convolution with few channels per group, with float16 and bfloat16 summed in float32."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return grouped(x.astype(wide), kernel.astype(wide), geometry, groups).astype(x.dtype)


class Conv(nnx.Module):
    """`torch.nn.Conv2d` on NHWC.

    Variables: `kernel` (kh, kw, in_features // groups, out_features), `bias` (out_features,) or
        None.
    """

    torch_names = CONVOLUTION

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        bias_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        """Check the geometry and draw the parameters.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            kernel_size: pixels, an int or (height, width).
            stride: pixels between windows.
            padding: zeros added on each side, or TensorFlow's "SAME".
            dilation: pixels between taps.
            groups: number of channel groups; `in_features` groups make it depthwise.
            bias: whether to add a learnt constant to each channel.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernel; by default PyTorch's.
            bias_init: initialiser of the bias; by default PyTorch's, U(-b, b) with
                b = fan_in^-1/2.
            rngs: random streams; parameters are drawn from the stream `params`.

        Raises: ValueError if a number is out of range or `groups` does not divide both
            `in_features` and `out_features`.
        """
        check_positive(in_features=in_features, out_features=out_features, groups=groups)
        check_divisible("groups", groups, in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = pair("kernel_size", kernel_size)
        self.stride = pair("stride", stride)
        self.padding: Padding = "SAME" if padding == "SAME" else pair("padding", padding, minimum=0)
        self.dilation = pair("dilation", dilation)
        self.groups = groups
        self.dtype = dtype
        shape = (*self.kernel_size, in_features // groups, out_features)
        self.kernel = nnx.Param(kernel_init(parameter_key(rngs), shape, param_dtype))
        draw_bias = bias_init or partial(uniform_fan_in, fan_in=math.prod(shape[:-1]))
        self.bias = (
            nnx.Param(draw_bias(parameter_key(rngs), (out_features,), param_dtype))
            if bias
            else None
        )

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N Ho Wo O"]:
        """Convolve `x` `(N, H, W, in_features)` to `(N, Ho, Wo, out_features)`.

        Raises: ValueError if the input is not NHWC with `in_features` channels, is not of a
            floating type, or is smaller than the kernel.
        """
        x = as_floating(x)
        self._check(x)
        bias = None if self.bias is None else self.bias[...]
        x, kernel, bias = promote_dtype((x, self.kernel[...], bias), dtype=self.dtype)
        y = conv2d(
            x,
            kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        return y if bias is None else y + bias

    @property
    def title(self) -> str:
        """A short description, such as `3x3 depthwise, stride 2`."""
        return convolution_title(self.kernel_size, self.groups, self.in_features, self.stride)

    def multiply_adds(self, shape: tuple[int, ...]) -> int:
        """`kh * kw * in_features // groups`, plus 1 for a bias, per value of the output
        `(Ho, Wo, O)`.
        """
        return count_convolution(self.kernel, self.bias, shape)

    def _check(self, x: jax.Array) -> None:
        if x.ndim != 4 or x.shape[-1] != self.in_features:
            hint = (
                ", which looks like PyTorch's NCHW"
                if x.ndim == 4 and x.shape[1] == self.in_features
                else ""
            )
            raise ValueError(f"`x` (shape {x.shape}{hint}) must be (N, H, W, {self.in_features})")
        geometry = (x.shape[1:3], self.kernel_size, self.stride, self.dilation)
        sides = _sides(self.padding, *geometry)
        for size, kernel, _, dilation, padding in zip(*geometry, sides, strict=True):
            if conv_output_size(size, kernel, 1, padding, dilation) < 1:
                raise ValueError(
                    f"`x` (shape {x.shape}) with padding {self.padding} is smaller than the kernel "
                    f"{self.kernel_size} at dilation {self.dilation}"
                )
