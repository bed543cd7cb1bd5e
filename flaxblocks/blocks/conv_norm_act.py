"""Convolution, norm, activation: the unit that everything else is built of."""

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
    """A `ConvNormAct` that is no module of its own there: `conv` and `norm`, each by itself."""
    yield f"{native}.conv", conv
    yield f"{native}.norm", norm


def conv_names(native: str, conv: str, norm: str) -> Iterator[tuple[str, ...]]:
    """A `ConvNormAct` whose layers timm calls `conv` and `norm`; its norms carry the activation, so
    they give the output.
    """
    yield from layer_names(native, conv, norm)
    yield native, norm, "output"


def timm_names(native: str, foreign: str) -> Iterator[tuple[str, ...]]:
    """A `ConvNormAct` that is timm's module of that name."""
    return conv_names(native, f"{foreign}.conv", f"{foreign}.bn")


def transformers_names(native: str, foreign: str) -> Iterator[tuple[str, ...]]:
    """A `ConvNormAct` that is a convolution with norm of Hugging Face's."""
    yield native, foreign, "output"
    yield from layer_names(native, f"{foreign}.convolution", f"{foreign}.normalization")


class ConvNormAct(nnx.Module):
    """activation(norm(conv(x))). Every argument of the convolution reaches it.

    Its layouts are those of a Sequential: `0` the convolution, `1` the norm. A family whose
    checkpoints name the layers otherwise pairs `conv` and `norm` by themselves.
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
            kernel_size: pixels.
            stride: pixels between windows.
            padding: zeros on each side, or TensorFlow's "SAME"; None is `kernel_size // 2`,
                whatever the dilation.
            dilation: pixels between taps.
            groups: channel groups of the convolution.
            bias: of the convolution. The article keeps it; papers leave it out before a norm.
            norm: a name in `nn.NORMS`, what builds a norm (`partial(BatchNorm, eps=1e-3)`), or
                None.
            activation: a name in `nn.ACTIVATIONS`, a function, or None.
            dtype: of the computation; None takes the widest of input and parameters.
            param_dtype: of the parameters and running statistics.
            kernel_init: draws the kernel; PyTorch's default unless given.
            bias_init: draws the bias; PyTorch's default unless given.
            rngs: `params` is drawn from.

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
        """`(N, H, W, in_features)` to `(N, Ho, Wo, out_features)`."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)

    @property
    def title(self) -> str:
        """Its convolution's."""
        return title_of(self.conv) or type(self.conv).__name__


Conv1X1BnReLU = partial(ConvNormAct, kernel_size=1)
Conv3X3BnReLU = partial(ConvNormAct, kernel_size=3)
