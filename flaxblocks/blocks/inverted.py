"""Inverted bottlenecks: expand, convolve, project. The four blocks differ in their middle
convolution and their skip.

| block | middle | skip |
|---|---|---|
| InvertedResidual | dense 3x3 | identity, or a 1x1 `ConvNormAct` if the shape changes |
| MobileNetLikeBlock | dense 3x3 | identity, or none if the shape changes |
| MBConv | depthwise 3x3 | as MobileNetLikeBlock |
| FusedMBConv | one dense 3x3 that also expands | as MobileNetLikeBlock |

The defaults are the article's, which ends each block with a ReLU and keeps biases. MobileNetV2's
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
from flaxblocks.nn.arguments import check_finite, check_positive, with_defaults
from flaxblocks.nn.conv import Padding
from flaxblocks.nn.init import Initializer, uniform_fan_in
from flaxblocks.nn.norm import Norm

__all__ = ["FusedMBConv", "InvertedResidual", "MBConv", "MobileNetLikeBlock"]

BRANCH = ("expand", "conv", "squeeze_excite", "project")


def _article(block: "InvertedResidual"):
    """A block with a skip is a `ResidualAdd` in two nested `Sequential`s, one without a skip three
    nested `Sequential`s.
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
            expansion: sets the hidden width to `round(in_features * expansion)`, which rounds
                halves to even.
            hidden_features: the hidden width itself; overrides `expansion`.
            kernel_size: kernel size of the middle convolution in pixels.
            stride: stride of the middle convolution.
            padding: padding of the middle convolution; None is `kernel_size // 2`, "SAME" is
                TensorFlow's.
            bias: whether the convolutions have a bias. The article keeps it; the papers omit it
                before a norm.
            norm: the norm after each convolution: its name, a callable that builds it, or None.
            activation: activation after `expand` and after `conv`.
            final_activation: activation at the end; the article has a ReLU, MobileNetV2 and
                EfficientNet none.
            shortcut_activation: activation after the shortcut's 1x1, if there is one.
            squeeze_excite: gate of the hidden channels after `conv`: the reduction of a
                `SqueezeExcite`, a callable that builds a gate, or None.
            gate_first: place the gate before the activation of `conv` rather than after it.
            stochastic_depth: probability of dropping the branch in training; ignored without a
                skip.
            depthwise: make the middle convolution depthwise. `MBConv(depthwise=False)` is the
                article's literal code, whose `ConvNormAct` ignores `groups`.
            fused: omit `expand` and let the middle convolution expand.
            residual: whether the block may have a skip.
            shortcut: if the shape changes, skip through a 1x1 `ConvNormAct`; otherwise such a block
                has no skip.
            always_expand: with expansion 1, keep the 1x1 convolution that does not change the width
                (`expand`, or `project` in a fused block), as in the article; the papers omit it.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters.
            kernel_init: initialiser of the kernels; by default PyTorch's.
            rngs: random streams: `params`, and `dropout` if `stochastic_depth` is above 0.

        Raises: ValueError if a number is out of range, `expansion` or `squeeze_excite` leaves no
            channel, or a depthwise block is to be fused.
        """
        check_positive(in_features=in_features, out_features=out_features, stride=stride)
        if hidden_features is not None:
            check_positive(hidden_features=hidden_features)
            expansion = hidden_features / in_features
        check_finite(expansion=expansion)
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
        both = always_expand or expansion != 1  # keep the 1x1 that changes no width at expansion 1
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
        """The functions, other than modules, that run before a layer, by its name; for `draw`."""
        return {} if self.gated_activation is None else {"project": self.gated_activation}

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """Map `x` `(N, H, W, in_features)` to
        `(N, ceil(H / stride), ceil(W / stride), out_features)`.
        """
        branch = (self.expand, self.conv, self.squeeze_excite, self.gated_activation, self.project)
        y = apply(x, *branch)
        if self.residual:
            skip = apply(x, self.shortcut)
            y = apply(y, self.stochastic_depth) + skip.astype(y.dtype)  # the dtype set by `dtype`
        return self.final_activation(y)


class MobileNetLikeBlock(InvertedResidual):
    """`InvertedResidual` with a skip only if the shape does not change: `shortcut=False`."""

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
