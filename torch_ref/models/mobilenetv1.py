"""MobileNetV1 and ReXNet's Plain: one Sequential of convolutions, alternately depthwise and 1x1.

Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1; Han et al. 2021,
https://arxiv.org/abs/2007.00992, appendix A.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from torch_ref.blocks.channels import make_divisible, require_positive
from torch_ref.blocks.conv_norm_act import ConvNormAct, Norm

__all__ = ["MobileNetV1"]

# Output channels and stride of each depthwise separable convolution in table 1.
SETTING = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1) for _ in range(5)),
    *((1024, 2), (1024, 1)),
)


class MobileNetV1(nn.Module):
    """The classifier: stem, depthwise separable convolutions, mean, linear layer.

    Keys: `features.{i}.{0,1}` for convolution and norm, `classifier`.

    Args:
        separable_setting: Rows (channels, stride); table 1's if None.
        width_mult: Multiplies every width; that of the last 1x1 convolution only above 1.
        last_features: Channels of a 1x1 convolution at the end; None for none.
        activation: The name of the one behind the stem and each 1x1 convolution.
        depthwise_activation: The name of the one behind each depthwise convolution; None is
            `activation`.
        norm_layer: "batch_norm", "group_norm", None, or a factory.
        dropout: The probability before the linear layer.

    Shape: `(N, in_channels, H, W)` to `(N, num_classes)`.

    Raises: ValueError for a number below 1, a row that is not two numbers, an unknown name.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        separable_setting: Sequence[Sequence[int]] | None = None,
        width_mult: float = 1.0,
        last_features: int | None = None,
        activation: str = "relu6",
        depthwise_activation: str | None = None,
        norm_layer: Norm = "batch_norm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, in_channels=in_channels)
        if width_mult <= 0:
            raise ValueError(f"`width_mult` (={width_mult}) must be above 0")
        setting = SETTING if separable_setting is None else separable_setting
        for i, row in enumerate(setting):
            if len(row) != 2:
                raise ValueError(f"`separable_setting[{i}]` (={row!r}) must be (channels, stride)")
        layer = partial(ConvNormAct, bias=False, norm=norm_layer)
        across = partial(layer, kernel_size=1, activation=activation)
        within = partial(layer, kernel_size=3, activation=depthwise_activation or activation)

        width = make_divisible(32 * width_mult)
        features = [layer(in_channels, width, 3, stride=2, activation=activation)]
        for channels, stride in setting:
            out = make_divisible(channels * width_mult)
            features += [within(width, width, stride=stride, groups=width), across(width, out)]
            width = out
        if last_features is not None:
            last = make_divisible(last_features * max(1.0, width_mult))
            features.append(across(width, last))
            width = last
        self.features = nn.Sequential(*features)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.features(x).mean((2, 3))))
