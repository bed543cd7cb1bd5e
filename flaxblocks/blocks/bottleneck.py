"""The bottleneck residual block: narrow, convolve, widen, add."""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.nn.activation import Activation, get_activation
from flaxblocks.nn.arguments import check_positive, with_defaults
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import Norm

__all__ = ["BottleNeck", "LinearBottleNeck"]


def _article(prefix: str):
    def keys(block: nnx.Module):
        for i, name in enumerate(("reduce", "conv", "expand")):
            yield name, f"{prefix}.block.{i}"
        yield "shortcut", f"{prefix}.shortcut"

    return keys


class BottleNeck(nnx.Module):
    """final_activation(expand(conv(reduce(x))) + shortcut(x)).

    `reduce` is 1x1 to `out_features // reduction` channels, `conv` 3x3 with the stride, `expand`
    1x1 without activation. `shortcut` is a 1x1 `ConvNormAct` where the shape changes, else the
    identity. The defaults are the article's; the paper's block is `bias=False,
    shortcut_activation=None`.

    Source: He et al. 2016, https://arxiv.org/abs/1512.03385, figure 5; stride in the 3x3 as in
        ResNet v1.5.
    """

    dialects = {"article": _article("0.0")}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        reduction: int = 4,
        stride: int = 1,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
        final_activation: Activation = "relu",
        shortcut_activation: Activation = "relu",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        rngs: nnx.Rngs,
    ):
        """Build the branches.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            reduction: the block's inner width is `out_features // reduction`.
            stride: of the 3x3 convolution and of the shortcut.
            bias: of the convolutions.
            norm: after each convolution; a name, what builds a norm, or None.
            activation: after the first two convolutions.
            final_activation: after the addition.
            shortcut_activation: at the end of the shortcut's 1x1; the article has a ReLU, ResNet
                none.
            dtype: of the computation; None takes the widest of input and parameters.
            param_dtype: of the parameters.
            kernel_init: draws the kernels; PyTorch's default unless given.
            rngs: `params` is drawn from.

        Raises: ValueError if `reduction` leaves no channel.
        """
        check_positive(in_features=in_features, out_features=out_features, reduction=reduction)
        reduced = out_features // reduction
        if reduced < 1:
            raise ValueError(
                f"`reduction` (={reduction}) leaves no channel of `out_features` "
                f"(={out_features}): `out_features // reduction` must be at least 1"
            )
        layer = partial(
            ConvNormAct,
            bias=bias,
            norm=norm,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        self.reduce = layer(in_features, reduced, 1, activation=activation)
        self.conv = layer(reduced, reduced, 3, stride=stride, activation=activation)
        self.expand = layer(reduced, out_features, 1, activation=None)
        shortcut = partial(
            layer, in_features, out_features, 1, stride=stride, activation=shortcut_activation
        )
        self.shortcut = shortcut() if in_features != out_features or stride != 1 else None
        self.final_activation = get_activation(final_activation, "final_activation")

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """`(N, H, W, in_features)` to `(N, H / stride, W / stride, out_features)`, sizes rounded
        up.
        """
        y = self.expand(self.conv(self.reduce(x)))
        skip = x if self.shortcut is None else self.shortcut(x)
        return self.final_activation(y + skip.astype(y.dtype))


class LinearBottleNeck(BottleNeck):
    """`BottleNeck` without the activation after the addition: `final_activation=None`."""

    dialects = {"article": _article("0")}
    __init__ = with_defaults(BottleNeck.__init__, final_activation=None)
