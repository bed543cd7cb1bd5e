"""Convolution, norm and activation: the unit that all other blocks are built from."""

from collections.abc import Iterator
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.nn.activation import Activation, get_activation
from flaxblocks.nn.arguments import pair
from flaxblocks.nn.conv import Conv, Padding
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.layer import title_of
from flaxblocks.nn.norm import Norm, make_norm

__all__ = [
    "Conv1X1BnReLU",
    "Conv3X3BnReLU",
    "ConvNormAct",
    "conv_names",
    "layer_names",
    "timm_names",
    "transformers_names",
]


def _sequential(block: nnx.Module):
    yield "conv", "0"
    yield "norm", "1"


def layer_names(native: str, conv: str, norm: str) -> Iterator[tuple[str, ...]]:
    """Names for a `ConvNormAct` whose `conv` and `norm` are two separate modules in PyTorch."""
    yield f"{native}.conv", conv
    yield f"{native}.norm", norm


def conv_names(native: str, conv: str, norm: str) -> Iterator[tuple[str, ...]]:
    """Names for a `ConvNormAct` whose two layers timm calls `conv` and `norm`.

    timm's norm layers include the activation, so the norm's output is that of the `ConvNormAct`.
    """
    yield from layer_names(native, conv, norm)
    yield native, norm, "output"


def timm_names(native: str, foreign: str) -> Iterator[tuple[str, ...]]:
    """Names for a `ConvNormAct` that is a `ConvNormAct` named `foreign` in timm."""
    return conv_names(native, f"{foreign}.conv", f"{foreign}.bn")


def transformers_names(native: str, foreign: str) -> Iterator[tuple[str, ...]]:
    """Names for a `ConvNormAct` that is a convolution-and-norm layer in Hugging Face's library."""
    yield native, foreign, "output"
    yield from layer_names(native, f"{foreign}.convolution", f"{foreign}.normalization")


class ConvNormAct(nnx.Module):
    """activation(norm(conv(x))), with every argument of the convolution.

    Its layouts are those of a PyTorch `Sequential`: `0` is the convolution, `1` the norm. Model
    families whose checkpoints use other names map `conv` and `norm` separately.
    """

    layouts = {"article": _sequential, "torchvision": _sequential}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int | tuple[int, int] = 1,
        padding: Padding | None = None,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        bias_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        """Build the three layers.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            kernel_size: pixels, an int or (height, width).
            stride: pixels between windows, an int or (height, width).
            padding: zeros on each side, or TensorFlow's "SAME"; None is `kernel_size // 2`,
                regardless of the dilation.
            dilation: pixels between taps, an int or (height, width).
            groups: number of channel groups of the convolution.
            bias: whether the convolution has a bias. The article keeps it; papers omit it before a
                norm.
            norm: a name in `nn.NORMS`, a callable that builds a norm, such as
                `partial(BatchNorm, eps=1e-3)`, or None.
            activation: a name in `nn.ACTIVATIONS`, a function, or None.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            kernel_init: initialiser of the kernel; by default PyTorch's.
            bias_init: initialiser of the bias; by default PyTorch's.
            rngs: random streams; parameters are drawn from the stream `params`.

        Raises: ValueError if a number is out of range or a name is unknown.
        """
        height, width = pair("kernel_size", kernel_size)
        self.conv = Conv(
            in_features,
            out_features,
            (height, width),
            stride=stride,
            padding=(height // 2, width // 2) if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )
        self.norm = make_norm(norm, out_features, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.activation = get_activation(activation)

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """Map `x` `(N, H, W, in_features)` to `(N, Ho, Wo, out_features)`."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)

    @property
    def title(self) -> str:
        """The title of its convolution."""
        return title_of(self.conv) or type(self.conv).__name__


Conv1X1BnReLU = partial(ConvNormAct, kernel_size=1)
Conv3X3BnReLU = partial(ConvNormAct, kernel_size=3)
