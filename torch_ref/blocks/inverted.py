"""Inverted bottlenecks: widen, filter, narrow.

Sandler et al. 2018 (MobileNetV2), https://arxiv.org/abs/1801.04381; Tan and Le 2021
(EfficientNetV2, the fused form), https://arxiv.org/abs/2104.00298.
"""

from torch import nn

from torch_ref.blocks.channels import expanded_features, require_positive
from torch_ref.blocks.conv_norm_act import Activation, ConvNormAct, Norm, make_activation
from torch_ref.blocks.residual import ResidualAdd
from torch_ref.blocks.squeeze_excite import SqueezeExcite

__all__ = ["FusedMBConv", "InvertedResidual", "MBConv", "MobileNetLikeBlock"]


def _narrow(
    hidden: int, out_features: int, *, bias: bool, norm: Norm, squeeze_excite: int | None
) -> list[nn.Module]:
    """[Squeeze-and-excitation,] then 1x1 convolution without activation."""
    project = ConvNormAct(hidden, out_features, 1, bias=bias, norm=norm, activation=None)
    if squeeze_excite is None:
        return [project]
    require_positive(squeeze_excite=squeeze_excite)
    return [SqueezeExcite(hidden, reduction=squeeze_excite), project]


def _inverted(
    in_features: int,
    out_features: int,
    *,
    expansion: float,
    kernel_size: int,
    stride: int,
    bias: bool,
    norm: Norm,
    activation: Activation,
    depthwise: bool,
    squeeze_excite: int | None,
    always_expand: bool,
) -> nn.Sequential:
    """[1x1 to the hidden width,] k x k, [squeeze-and-excitation,] 1x1 without activation."""
    require_positive(
        in_features=in_features, out_features=out_features, kernel_size=kernel_size, stride=stride
    )
    hidden = expanded_features(in_features, expansion)
    layers: list[nn.Module] = []
    if always_expand or expansion != 1:
        layers.append(
            ConvNormAct(in_features, hidden, 1, bias=bias, norm=norm, activation=activation)
        )
    groups = hidden if depthwise else 1
    layers.append(
        ConvNormAct(
            hidden,
            hidden,
            kernel_size,
            stride=stride,
            groups=groups,
            bias=bias,
            norm=norm,
            activation=activation,
        )
    )
    layers += _narrow(hidden, out_features, bias=bias, norm=norm, squeeze_excite=squeeze_excite)
    return nn.Sequential(*layers)


def _residual_if_same(
    block: nn.Sequential, in_features: int, out_features: int, stride: int
) -> nn.Module:
    """`block` with a residual if it keeps width and size, else wrapped once: the keys want it."""
    if in_features == out_features and stride == 1:
        return ResidualAdd(block)
    return nn.Sequential(block)


class InvertedResidual(nn.Sequential):
    """1x1 to many channels, k x k, 1x1 to few, added to a shortcut, then an activation.

    The shortcut is a 1x1 `ConvNormAct` if the widths differ or the stride is not 1, else the
    identity. Keys `0.0.block.{i}.*`, `0.0.shortcut.{0,1}`.

    Args:
        expansion: The hidden width is `in_features * expansion`, rounded half to even.
        kernel_size: Of the middle convolution, which carries the stride.
        activation: After the first two convolutions.
        final_activation: After the sum; MobileNetV2 has none (None).
        shortcut_activation: Inside the shortcut.
        depthwise: Whether the middle convolution has a filter for each channel; else it is dense.
        squeeze_excite: If given, squeeze-and-excitation to `hidden // squeeze_excite` channels
            before the last convolution.
        always_expand: If False, there is no first convolution at expansion 1.

    Shape: `(N, in_features, H, W)` to `(N, out_features, H', W')`, where H' is ceil(H / stride) for
        an odd kernel.

    Raises: ValueError for a number below 1, or if no hidden or squeezed channel is left.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: float = 4,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
        final_activation: Activation = "relu",
        shortcut_activation: Activation = "relu",
        depthwise: bool = False,
        squeeze_excite: int | None = None,
        always_expand: bool = True,
    ) -> None:
        block = _inverted(
            in_features,
            out_features,
            expansion=expansion,
            kernel_size=kernel_size,
            stride=stride,
            bias=bias,
            norm=norm,
            activation=activation,
            depthwise=depthwise,
            squeeze_excite=squeeze_excite,
            always_expand=always_expand,
        )
        shortcut = None
        if in_features != out_features or stride != 1:
            shortcut = ConvNormAct(
                in_features,
                out_features,
                1,
                stride=stride,
                bias=bias,
                norm=norm,
                activation=shortcut_activation,
            )
        super().__init__(
            nn.Sequential(ResidualAdd(block, shortcut), make_activation(final_activation))
        )


class MobileNetLikeBlock(nn.Sequential):
    """`InvertedResidual` that adds its input only where width and size are kept; no shortcut.

    Keys `0.0.block.{i}.*` with the residual connection, `0.0.0.{i}.*` without.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: float = 4,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu",
        final_activation: Activation = "relu",
        depthwise: bool = False,
        squeeze_excite: int | None = None,
        always_expand: bool = True,
    ) -> None:
        block = _inverted(
            in_features,
            out_features,
            expansion=expansion,
            kernel_size=kernel_size,
            stride=stride,
            bias=bias,
            norm=norm,
            activation=activation,
            depthwise=depthwise,
            squeeze_excite=squeeze_excite,
            always_expand=always_expand,
        )
        body = _residual_if_same(block, in_features, out_features, stride)
        super().__init__(nn.Sequential(body, make_activation(final_activation)))


class MBConv(MobileNetLikeBlock):
    """`MobileNetLikeBlock` with ReLU6 and a depthwise middle convolution.

    `depthwise=False` is the article's literal code, whose middle convolution was dense.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: float = 4,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu6",
        final_activation: Activation = "relu",
        depthwise: bool = True,
        squeeze_excite: int | None = None,
        always_expand: bool = True,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            expansion=expansion,
            kernel_size=kernel_size,
            stride=stride,
            bias=bias,
            norm=norm,
            activation=activation,
            final_activation=final_activation,
            depthwise=depthwise,
            squeeze_excite=squeeze_excite,
            always_expand=always_expand,
        )


class FusedMBConv(nn.Sequential):
    """`MBConv` with its first 1x1 and its depthwise convolution fused into one dense k x k.

    Keys `0.0.block.{i}.*` with the residual connection, `0.0.0.{i}.*` without.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: float = 4,
        kernel_size: int = 3,
        stride: int = 1,
        bias: bool = True,
        norm: Norm = "batch_norm",
        activation: Activation = "relu6",
        final_activation: Activation = "relu",
        squeeze_excite: int | None = None,
    ) -> None:
        require_positive(
            in_features=in_features,
            out_features=out_features,
            kernel_size=kernel_size,
            stride=stride,
        )
        hidden = expanded_features(in_features, expansion)
        block = nn.Sequential(
            ConvNormAct(
                in_features,
                hidden,
                kernel_size,
                stride=stride,
                bias=bias,
                norm=norm,
                activation=activation,
            ),
            *_narrow(hidden, out_features, bias=bias, norm=norm, squeeze_excite=squeeze_excite),
        )
        body = _residual_if_same(block, in_features, out_features, stride)
        super().__init__(nn.Sequential(body, make_activation(final_activation)))
