"""The depthwise separable convolution (Howard et al. 2017, https://arxiv.org/abs/1704.04861)."""

from torch import nn

from torch_ref.blocks.channels import require_positive

__all__ = ["DepthWiseSeparableConv"]


class DepthWiseSeparableConv(nn.Sequential):
    """One k x k filter for each channel, then a 1x1 convolution across them.

    Keys `0.` (depthwise) and `1.` (pointwise). No normalisation, no activation, and no padding
    unless asked for.

    Shape: `(N, in_features, H, W)` to `(N, out_features, H', W')`.

    Raises: ValueError for a number below 1 or a negative padding.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        require_positive(
            in_features=in_features,
            out_features=out_features,
            kernel_size=kernel_size,
            stride=stride,
        )
        if padding < 0:
            raise ValueError(f"`padding` (={padding}) must be at least 0")
        super().__init__(
            nn.Conv2d(
                in_features,
                in_features,
                kernel_size,
                stride,
                padding,
                groups=in_features,
                bias=bias,
            ),
            nn.Conv2d(in_features, out_features, 1, bias=bias),
        )
