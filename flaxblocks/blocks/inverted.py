"""Inverted bottlenecks: widen, convolve, narrow. Four blocks that differ in their middle and their
skip.

| block | middle | skip |
|---|---|---|
| InvertedResidual | dense 3x3 | identity, or a 1x1 `ConvNormAct` where the shape changes |
| MobileNetLikeBlock | dense 3x3 | identity, or none where the shape changes |
| MBConv | depthwise 3x3 | as MobileNetLikeBlock |
| FusedMBConv | expansion and middle in one dense 3x3 | as MobileNetLikeBlock |

The defaults are the article's, which ends each block in a ReLU and keeps biases; MobileNetV2's
block is `MBConv(..., expansion=6, bias=False, final_activation=None, always_expand=False)`.

Source: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 1 and figure 4; Tan and Le
2021, https://arxiv.org/abs/2104.00298, figure 2 (the fused form).
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.residual import apply, make_stochastic_depth
from flaxblocks.blocks.squeeze_excite import SqueezeExciteChoice, make_squeeze_excite
from flaxblocks.nn.activation import Activation, get_activation
from flaxblocks.nn.arguments import check_positive, with_defaults
from flaxblocks.nn.conv import Padding
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import Norm

__all__ = ["FusedMBConv", "InvertedResidual", "MBConv", "MobileNetLikeBlock"]

BRANCH = ("expand", "conv", "squeeze_excite", "project")


def _article(block: "InvertedResidual"):
    """A residual block is a `ResidualAdd` in two Sequentials, one without a skip three
    Sequentials.
    """
    branch = "0.0.block" if block.residual else "0.0.0"
    layers = [name for name in BRANCH if getattr(block, name) is not None]
    for i, name in enumerate(layers):
        yield name, f"{branch}.{i}"
    yield "shortcut", "0.0.shortcut"


class InvertedResidual(nnx.Module):
    """final_activation(project(squeeze_excite(conv(expand(x)))) + skip(x)); absent layers are
    None.
    """

    layouts = {"article": _article}

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: float = 4,
        hidden_features: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: Padding | None = None,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
        final_activation: Activation = "relu",
        shortcut_activation: Activation = "relu",
        squeeze_excite: SqueezeExciteChoice = None,
        gate_first: bool = False,
        stochastic_depth: float = 0.0,
        depthwise: bool = False,
        fused: bool = False,
        residual: bool = True,
        shortcut: bool = True,
        always_expand: bool = True,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        kernel_init: Initializer = uniform_fan_in,
        rngs: nnx.Rngs,
    ):
        """Build the branch and the skip.

        Args:
            in_features: channels of the input.
            out_features: channels of the output.
            expansion: the hidden width is `round(in_features * expansion)`, halves to even.
            hidden_features: the hidden width itself, in place of `expansion`.
            kernel_size: pixels of the middle convolution.
            stride: of the middle convolution.
            padding: of the middle convolution; None is `kernel_size // 2`, "SAME" TensorFlow's.
            bias: of the convolutions. The article keeps it; the papers leave it out before a norm.
            norm: after each convolution; a name, what builds a norm, or None.
            activation: after `expand` and `conv`.
            final_activation: at the end; the article has a ReLU, MobileNetV2 and EfficientNet none.
            shortcut_activation: at the end of the shortcut's 1x1, where there is one.
            squeeze_excite: after `conv`: the reduction of a `SqueezeExcite` of the hidden channels,
                what builds one, or None.
            gate_first: put it before the activation of `conv`, not after.
            stochastic_depth: probability of dropping the branch in training, where there is a skip.
            depthwise: the middle convolution sees each channel by itself. `MBConv(depthwise=False)`
                is the article's literal code, whose `ConvNormAct` drops `groups`.
            fused: leave out `expand` and let the middle convolution widen.
            residual: have a skip at all.
            shortcut: where the shape changes, skip by a 1x1 `ConvNormAct` rather than not at all.
            always_expand: keep, at expansion 1, the 1x1 that then neither widens nor narrows
                (`expand`, of a fused block `project`), as the article does; the papers leave it
                out.
            dtype: of the computation; None takes the widest of input and parameters.
            param_dtype: of the parameters.
            kernel_init: draws the kernels; PyTorch's default unless given.
            rngs: `params` is drawn from; `dropout` too if `stochastic_depth` is above 0.

        Raises: ValueError if a number is out of range, `expansion` or `squeeze_excite` leaves no
            channel, or a depthwise block is to be fused.
        """
        check_positive(in_features=in_features, out_features=out_features, stride=stride)
        if hidden_features is not None:
            check_positive(hidden_features=hidden_features)
            expansion = hidden_features / in_features
        hidden = round(in_features * expansion)
        if hidden < 1:
            raise ValueError(
                f"`expansion` (={expansion}) leaves no channel of `in_features` (={in_features}): "
                "`round(in_features * expansion)` must be at least 1"
            )
        if depthwise and fused:
            raise ValueError("`depthwise` (=True) and `fused` (=True) exclude each other")
        types = {
            "dtype": dtype,
            "param_dtype": param_dtype,
            "kernel_init": kernel_init,
            "rngs": rngs,
        }
        layer = partial(ConvNormAct, bias=bias, norm=norm, **types)
        both = always_expand or expansion != 1  # a 1x1 before or after the middle, and another
        self.expand = (
            layer(in_features, hidden, 1, activation=activation) if both and not fused else None
        )
        self.conv = layer(
            in_features if fused else hidden,
            hidden if both or not fused else out_features,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=hidden if depthwise else 1,
            activation=None if gate_first else activation,
        )
        self.squeeze_excite = make_squeeze_excite(
            squeeze_excite, self.conv.conv.out_features, **types
        )
        self.gated_activation = get_activation(activation) if gate_first else None
        self.project = (
            layer(hidden, out_features, 1, activation=None) if both or not fused else None
        )
        same_shape = in_features == out_features and stride == 1
        skip = partial(
            layer, in_features, out_features, 1, stride=stride, activation=shortcut_activation
        )
        self.residual = residual and (shortcut or same_shape)
        self.shortcut = skip() if self.residual and not same_shape else None
        self.stochastic_depth = (
            make_stochastic_depth(stochastic_depth, rngs) if self.residual else None
        )
        self.final_activation = get_activation(final_activation, "final_activation")

    @property
    def functions_before(self) -> dict[str, Callable]:
        """What runs before which layer and is no module, for `draw`."""
        return {} if self.gated_activation is None else {"project": self.gated_activation}

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """`(N, H, W, in_features)` to `(N, H / stride, W / stride, out_features)`, sizes rounded
        up.
        """
        branch = (self.expand, self.conv, self.squeeze_excite, self.gated_activation, self.project)
        y = apply(x, *branch)
        if self.residual:
            skip = apply(x, self.shortcut)
            y = apply(y, self.stochastic_depth) + skip.astype(y.dtype)  # `dtype` decides
        return self.final_activation(y)


class MobileNetLikeBlock(InvertedResidual):
    """`InvertedResidual` that skips only where the shape stays: `shortcut=False`."""

    __init__ = with_defaults(InvertedResidual.__init__, shortcut=False)


class MBConv(InvertedResidual):
    """MobileNetV2's block: `shortcut=False, depthwise=True, activation="relu6"`."""

    __init__ = with_defaults(
        InvertedResidual.__init__, shortcut=False, depthwise=True, activation="relu6"
    )


class FusedMBConv(InvertedResidual):
    """EfficientNetV2's block: `shortcut=False, fused=True, activation="relu6"`."""

    __init__ = with_defaults(
        InvertedResidual.__init__, shortcut=False, fused=True, activation="relu6"
    )
