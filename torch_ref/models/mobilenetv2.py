"""MobileNetV2 with torchvision's keys and arguments.

Sandler et al. 2018, https://arxiv.org/abs/1801.04381.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional

from torch_ref.blocks.channels import expanded_features, make_divisible, require_positive
from torch_ref.blocks.conv_norm_act import ConvNormAct

__all__ = ["InvertedResidual", "MobileNetV2"]

# The paper's table 2: expand ratio t, channels c, depth n, stride s of the first block.
SETTING = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 + ReLU6 (not at `expand_ratio` 1), depthwise 3x3 + ReLU6, 1x1 linear.

    The input is added where stride and width allow it.

    Shape: `(N, inp, H, W)` to `(N, oup, ceil(H / stride), ceil(W / stride))`.

    Raises: ValueError if `stride` is not 1 or 2.
    """

    def __init__(
        self,
        inp: int,
        oup: int,
        stride: int,
        expand_ratio: float,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"`stride` (={stride!r}) must be 1 or 2")
        require_positive(inp=inp, oup=oup)
        norm = norm_layer or nn.BatchNorm2d
        hidden = expanded_features(inp, expand_ratio)
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvNormAct(inp, hidden, 1, bias=False, norm=norm, activation="relu6"))
        depthwise = ConvNormAct(
            hidden,
            hidden,
            3,
            stride=stride,
            groups=hidden,
            bias=False,
            norm=norm,
            activation="relu6",
        )
        layers += [depthwise, nn.Conv2d(hidden, oup, 1, bias=False), norm(oup)]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inp == oup

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """The classifier of table 2: stem, inverted residuals, 1x1 convolution, mean, linear layer.

    Args:
        width_mult: Multiplies every width; the last one only above 1.
        inverted_residual_setting: Rows (expand ratio, channels, depth, stride); table 2's if None.
        round_nearest: Every width is rounded to a multiple of this.
        block: Called as `block(inp, oup, stride, expand_ratio=, norm_layer=)`; `InvertedResidual`
            if None.
        norm_layer: Called with a number of channels; `nn.BatchNorm2d` if None.
        dropout: The probability before the linear layer.

    Shape: `(N, in_channels, H, W)` to `(N, num_classes)`.

    Raises: ValueError for a number below 1, or a row that is not four numbers, the last 1 or 2.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None,
        round_nearest: int = 8,
        block: Callable[..., nn.Module] | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
        dropout: float = 0.2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        require_positive(
            num_classes=num_classes, round_nearest=round_nearest, in_channels=in_channels
        )
        if width_mult <= 0:
            raise ValueError(f"`width_mult` (={width_mult}) must be above 0")
        setting = SETTING if inverted_residual_setting is None else inverted_residual_setting
        _check_setting(setting)
        block = block or InvertedResidual
        norm = norm_layer or nn.BatchNorm2d

        width = make_divisible(32 * width_mult, round_nearest)
        self.last_channel = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        features: list[nn.Module] = [
            ConvNormAct(in_channels, width, 3, stride=2, bias=False, norm=norm, activation="relu6")
        ]
        for expand_ratio, channels, depth, first_stride in setting:
            out = make_divisible(channels * width_mult, round_nearest)
            for i in range(depth):
                stride = first_stride if i == 0 else 1
                features.append(
                    block(width, out, stride, expand_ratio=expand_ratio, norm_layer=norm)
                )
                width = out
        features.append(
            ConvNormAct(width, self.last_channel, 1, bias=False, norm=norm, activation="relu6")
        )
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(self.last_channel, num_classes)
        )
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x.flatten(1))


def _check_setting(setting: Sequence[Sequence[int]]) -> None:
    if len(setting) == 0:
        raise ValueError(f"`inverted_residual_setting` (={setting!r}) must have at least one row")
    for i, row in enumerate(setting):
        if len(row) != 4:
            raise ValueError(
                f"`inverted_residual_setting[{i}]` (={row!r}) must have 4 numbers: t, c, n, s"
            )
        if min(row) <= 0 or row[3] not in (1, 2):
            raise ValueError(
                f"`inverted_residual_setting[{i}]` (={row!r}) must be positive, "
                "with a stride of 1 or 2"
            )


def _initialise(model: nn.Module) -> None:
    """Convolutions kaiming normal by fan out, norms 1, the linear layer N(0, 0.01), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
