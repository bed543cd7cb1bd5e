"""ResNet's bottleneck: 1x1 to fewer channels, 3x3, 1x1 to many (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

from torch import nn

from torch_ref.blocks.channels import reduced_features, require_positive
from torch_ref.blocks.conv_norm_act import Activation, ConvNormAct, Norm, make_activation
from torch_ref.blocks.residual import ResidualAdd

__all__ = ["BottleNeck", "LinearBottleNeck"]


class LinearBottleNeck(nn.Sequential):
    """`BottleNeck` without the activation after the sum; keys `0.block.*`, `0.shortcut.*`."""

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
        shortcut_activation: Activation = "relu",
    ) -> None:
        require_positive(in_features=in_features, out_features=out_features, stride=stride)
        reduced = reduced_features("out_features", out_features, reduction)
        block = nn.Sequential(
            ConvNormAct(in_features, reduced, 1, bias=bias, norm=norm, activation=activation),
            ConvNormAct(
                reduced, reduced, 3, stride=stride, bias=bias, norm=norm, activation=activation
            ),
            ConvNormAct(reduced, out_features, 1, bias=bias, norm=norm, activation=None),
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
        super().__init__(ResidualAdd(block, shortcut))


class BottleNeck(nn.Sequential):
    """1x1, 3x3 (with the stride) and 1x1 convolution added to a shortcut, then an activation.

    The shortcut is a 1x1 `ConvNormAct` if the widths differ or the stride is not 1, else the
    identity. Keys `0.0.block.{0,1,2}.{0,1}`, `0.0.shortcut.{0,1}`.

    Args:
        reduction: The inner width is `out_features // reduction`.
        activation: After the first two convolutions.
        final_activation: After the sum.
        shortcut_activation: Inside the shortcut; ResNet has none (None).

    Shape: `(N, in_features, H, W)` to `(N, out_features, ceil(H / stride), ceil(W / stride))`.

    Raises: ValueError if `reduction` leaves no channel, or a number is below 1.
    """

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
    ) -> None:
        linear = LinearBottleNeck(
            in_features,
            out_features,
            reduction=reduction,
            stride=stride,
            bias=bias,
            norm=norm,
            activation=activation,
            shortcut_activation=shortcut_activation,
        )
        super().__init__(nn.Sequential(*linear, make_activation(final_activation)))
