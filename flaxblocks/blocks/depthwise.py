"""The depthwise separable convolution."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.nn.conv import Conv
from flaxblocks.nn.init import Initializer, uniform_fan_in

__all__ = ["DepthWiseSeparableConv"]


def _sequential(block: nnx.Module):
    yield "depthwise", "0"
    yield "pointwise", "1"


class DepthWiseSeparableConv(nnx.Module):
    """A spatial convolution of each channel separately, then a 1x1 convolution across channels.

    There is no norm, no activation and by default no padding: a 3x3 kernel maps 56x56 to 54x54.

    Source: Howard et al. 2017, https://arxiv.org/abs/1704.04861, section 3.1.
    """

    layouts = {"article": _sequential}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        rngs: nnx.Rngs,
    ):
        """Build the two convolutions; `kernel_size`, `stride` and `padding` apply to the depthwise
        one, all other arguments, as in `Conv`, to both.

        Raises: ValueError if a number is out of range.
        """
        types = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "kernel_init": kernel_init,
            "rngs": rngs,
        }
        self.depthwise = Conv(
            in_features,
            in_features,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=in_features,
            bias=bias,
            **types,
        )
        self.pointwise = Conv(in_features, out_features, 1, bias=bias, **types)

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """Map `x` `(N, H, W, in_features)` to `(N, Ho, Wo, out_features)`."""
        return self.pointwise(self.depthwise(x))
