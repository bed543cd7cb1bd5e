"""ReXNet and ReXNet-lite with the keys of the official release.

Han et al. 2021, https://arxiv.org/abs/2007.00992.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.blocks.channels import make_divisible, reduced_features, require_positive

__all__ = ["ReXNet", "ReXNetLite", "RexBottleneck", "SiLU"]

DEPTHS = (1, 2, 2, 3, 3, 5)
STRIDES = (1, 2, 2, 2, 1, 2)  # of the first block of a stage
FIRST_GATED_STAGE = 2
EXPANSION = 6  # of every block but those of the first stage
STEM, LAST, LITE_HIDDEN = 32, 1280, 1024
Norm = Callable[[int], nn.Module]


class SiLUFunction(torch.autograd.Function):
    """x s(x), s being the sigmoid, which keeps x alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradients[0] * (gate * (1 + x * (1 - gate)))


class SiLU(nn.Module):
    """`SiLUFunction` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return SiLUFunction.apply(x)


class Gate(nn.Module):
    """Squeeze-and-excitation with a batch norm behind the first convolution; keys `fc.0`, `fc.1`,
    `fc.3`.
    """

    def __init__(self, features: int, squeezed: int, norm: Norm) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Conv2d(features, squeezed, 1),
            norm(squeezed),
            nn.ReLU(),
            nn.Conv2d(squeezed, features, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.avg_pool(x))


def conv_norm(
    in_features: int,
    out_features: int,
    norm: Norm,
    kernel_size: int = 1,
    stride: int = 1,
    groups: int = 1,
) -> list[nn.Module]:
    padding = kernel_size // 2
    return [
        nn.Conv2d(
            in_features, out_features, kernel_size, stride, padding, groups=groups, bias=False
        ),
        norm(out_features),
    ]


class RexBottleneck(nn.Module):
    """1x1 + activation (not at `expansion` 1), depthwise, gate, ReLU6, linear 1x1; keys `out.*`.

    At stride 1 the input is added to the first of at least as many output channels.

    Args:
        squeezed_features: Hidden width of the gate; None leaves it out.
        activation: Called with nothing, makes what follows the first 1x1.
        norm: Called with a number of channels.

    Shape: `(N, in_features, H, W)` to `(N, out_features, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        expansion: int = EXPANSION,
        kernel_size: int = 3,
        stride: int = 1,
        squeezed_features: int | None = None,
        activation: Callable[[], nn.Module] = SiLU,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        require_positive(in_features=in_features, out_features=out_features, expansion=expansion)
        require_positive(kernel_size=kernel_size, stride=stride)
        hidden = in_features * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*conv_norm(in_features, hidden, norm), activation()]
        layers += conv_norm(hidden, hidden, norm, kernel_size, stride, groups=hidden)
        if squeezed_features is not None:
            layers.append(Gate(hidden, squeezed_features, norm))
        layers += [nn.ReLU6(), *conv_norm(hidden, out_features, norm)]
        self.out = nn.Sequential(*layers)
        self.shared = in_features if stride == 1 and in_features <= out_features else 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.out(x)
        if not self.shared:
            return y
        return torch.cat([y[:, : self.shared] + x, y[:, self.shared :]], dim=1)


def linear_widths(
    first: float, step: float, count: int, width_mult: float, round_nearest: int
) -> list[int]:
    """`count` widths from `first` up by `step`, scaled; the first one only upwards.

    Halves are rounded to even, then to a multiple of `round_nearest`.
    """
    width = first / width_mult if width_mult < 1 else first
    widths = []
    for _ in range(count):
        widths.append(make_divisible(round(width * width_mult), round_nearest))
        width += step
    return widths


class ReXNet(nn.Module):
    """ReXNet V1: a stem, bottlenecks whose width grows linearly, 1x1 convolution, mean, dropout,
    1x1 convolution.

    Args:
        input_features: Width of the first block, the stem's being 32.
        final_features: By how much the blocks widen in all.
        width_mult: Multiplies every width; of the stem and the first block only above 1.
        depth_mult: Multiplies the blocks of each stage, rounded up.
        round_nearest: Every width is rounded to a multiple of this.
        use_se: Gate the blocks from the third stage on.
        se_ratio: The gate's hidden width is its channels divided by this.
        dropout: The probability before the last convolution.
        norm_eps: Of every batch norm.
        norm_momentum: Of every batch norm.

    Shape: `(N, in_channels, H, W)` to `(N, num_classes)`.

    Raises: ValueError for a number that is not positive, or a gate without channels.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        input_features: int = 16,
        final_features: int = 180,
        width_mult: float = 1.0,
        depth_mult: float = 1.0,
        round_nearest: int = 1,
        use_se: bool = True,
        se_ratio: int = 12,
        dropout: float = 0.2,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        _require(num_classes, in_channels, input_features, round_nearest, width_mult, depth_mult)
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum)
        depths = [ceil(depth * depth_mult) for depth in DEPTHS]
        count = sum(depths)
        widths = linear_widths(
            input_features, final_features / count, count, width_mult, round_nearest
        )
        (width,) = linear_widths(STEM, 0, 1, width_mult, round_nearest)

        features = [*conv_norm(in_channels, width, norm, 3, 2), SiLU()]
        for stage, (depth, first_stride) in enumerate(zip(depths, STRIDES, strict=True)):
            for i in range(depth):
                expansion = EXPANSION if stage else 1
                squeezed = None
                if use_se and stage >= FIRST_GATED_STAGE:
                    squeezed = reduced_features("features", width * expansion, se_ratio)
                    squeezed = make_divisible(squeezed, round_nearest)
                out = widths.pop(0)
                features.append(
                    RexBottleneck(
                        width,
                        out,
                        expansion=expansion,
                        stride=1 if i else first_stride,
                        squeezed_features=squeezed,
                        norm=norm,
                    )
                )
                width = out
        last = make_divisible(int(LAST * width_mult), round_nearest)
        features += [*conv_norm(width, last, norm), SiLU(), nn.AdaptiveAvgPool2d(1)]
        self.features = nn.Sequential(*features)
        self.output = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(last, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.features(x)).flatten(1)


class ReXNetLite(nn.Module):
    """ReXNet-lite: no gates, ReLU6 throughout, widths in eights, a hidden layer before the last.

    Args:
        input_features: Width of the first block, the stem's being 32.
        final_features: By how much the last block is wider.
        width_mult: Multiplies every width; of the stem, the first block and the layer before the
            mean only above 1.
        kernel_sizes: Of the depthwise convolutions, one for each of the six stages.
        fix_head_stem: Leave the stem and the layer before the mean unscaled.
        round_nearest: Every width is rounded to a multiple of this, but for that layer's.
        dropout: The probability before the last convolution.
        norm_eps: Of every batch norm.
        norm_momentum: Of every batch norm.

    Shape: `(N, in_channels, H, W)` to `(N, num_classes)`.

    Raises: ValueError for a number that is not positive, or other than six kernel sizes.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        input_features: int = 16,
        final_features: int = 164,
        width_mult: float = 1.0,
        kernel_sizes: Sequence[int] = (3, 3, 3, 3, 3, 3),
        fix_head_stem: bool = False,
        round_nearest: int = 8,
        dropout: float = 0.2,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        _require(num_classes, in_channels, input_features, round_nearest, width_mult)
        if len(kernel_sizes) != len(DEPTHS):
            raise ValueError(f"`kernel_sizes` (={kernel_sizes!r}) must have {len(DEPTHS)} numbers")
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=norm_momentum)
        count = sum(DEPTHS)
        step = final_features / (count - 1)
        widths = linear_widths(input_features, step, count, width_mult, round_nearest)
        (width,) = linear_widths(STEM, 0, 1, 1.0 if fix_head_stem else width_mult, round_nearest)

        features = [*conv_norm(in_channels, width, norm, 3, 2), nn.ReLU6()]
        for stage, depth in enumerate(DEPTHS):
            for i in range(depth):
                out = widths.pop(0)
                features.append(
                    RexBottleneck(
                        width,
                        out,
                        expansion=EXPANSION if stage else 1,
                        kernel_size=kernel_sizes[stage],
                        stride=1 if i else STRIDES[stage],
                        activation=nn.ReLU6,
                        norm=norm,
                    )
                )
                width = out
        last = LAST if fix_head_stem else int(LAST * max(1.0, width_mult))
        features += [*conv_norm(width, last, norm), nn.ReLU6()]
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Sequential(
            nn.Conv2d(last, LITE_HIDDEN, 1),
            norm(LITE_HIDDEN),
            nn.ReLU6(),
            nn.Dropout(dropout),
            nn.Conv2d(LITE_HIDDEN, num_classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.avgpool(self.features(x))).flatten(1)


def _require(
    num_classes: int, in_channels: int, input_features: int, round_nearest: int, *factors: float
) -> None:
    require_positive(num_classes=num_classes, in_channels=in_channels)
    require_positive(input_features=input_features, round_nearest=round_nearest)
    for name, factor in zip(("width_mult", "depth_mult"), factors, strict=False):
        if not factor > 0:
            raise ValueError(f"`{name}` (={factor}) must be positive")
