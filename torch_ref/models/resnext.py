"""ResNeXt with the article's keys: a 7x7 stem, a max pool, four stages of grouped bottlenecks.

Xie et al. 2017, https://arxiv.org/abs/1611.05431, table 1.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from torch_ref.blocks.channels import require_positive
from torch_ref.blocks.conv_norm_act import ConvNormAct, Norm, make_norm

__all__ = ["ResNeXtArticle", "ResNeXtBlock"]


class ResNeXtBlock(nn.Module):
    """relu(residual(x) + shortcut(x)), the residual branch 1x1, grouped 3x3 with the stride, 1x1.

    The shortcut is a 1x1 convolution with bias and a norm where the shape changes, else the
    identity. Keys `residual.{0,1,3,4,6,7}`, `shortcut.{0,1}`.

    Shape: `(N, in_features, H, W)` to `(N, out_features, ceil(H / stride), ceil(W / stride))`.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        out_features: int,
        cardinality: int,
        stride: int,
        norm: Norm = "batch_norm",
    ) -> None:
        super().__init__()
        grouped = nn.Conv2d(width, width, 3, stride, 1, groups=cardinality, bias=False)
        self.residual = nn.Sequential(
            nn.Conv2d(in_features, width, 1, bias=False),
            make_norm(norm, width),
            nn.ReLU(),
            grouped,
            make_norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, out_features, 1, bias=False),
            make_norm(norm, out_features),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_features != out_features or stride != 1:
            self.shortcut = ConvNormAct(
                in_features, out_features, 1, stride=stride, norm=norm, activation=None
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


class ResNeXtArticle(nn.Module):
    """The article's classifier.

    Args:
        block_repeats: Rows (inner width, repeats), one a stage.
        expansion: A block gives this many times its inner width.
        cardinality: Groups of the 3x3 convolutions.
        paper_strides: Stride 1 rather than 2 in the first stage.
        zero_init_last: Scale 0 in each residual branch's last norm, so that it starts at 0.
        dropout: The probability before the classifier.

    Shape: `(N, in_channels, H, W)` to `(N, num_classes)`.

    Raises: ValueError for a number below 1, or a width that `cardinality` does not divide.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        block_repeats: Sequence[Sequence[int]] = ((128, 3), (256, 4), (512, 6), (1024, 3)),
        expansion: int = 2,
        cardinality: int = 32,
        paper_strides: bool = False,
        zero_init_last: bool = False,
        norm_layer: Norm = "batch_norm",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, in_channels=in_channels)
        require_positive(expansion=expansion, cardinality=cardinality)
        self.conv1 = ConvNormAct(in_channels, 64, 7, stride=2, norm=norm_layer)
        self.conv2_pool = nn.MaxPool2d(3, stride=2, padding=1)
        features = 64
        self.stages: list[str] = []
        for number, (width, repeats) in enumerate(block_repeats, start=2):
            require_positive(width=width, repeats=repeats)
            if width % cardinality:
                raise ValueError(
                    f"`block_repeats` has width {width}: it must be divisible by `cardinality` "
                    f"(={cardinality})"
                )
            blocks = []
            for i in range(repeats):
                stride = 2 if i == 0 and not (paper_strides and number == 2) else 1
                blocks.append(
                    ResNeXtBlock(
                        features, width, expansion * width, cardinality, stride, norm_layer
                    )
                )
                features = expansion * width
            self.stages.append(f"conv{number}_blocks")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_classes)
        self._initialise(zero_init_last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2_pool(self.conv1(x))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.classifier(self.dropout(self.gap(x).flatten(1)))

    def _initialise(self, zero_init_last: bool) -> None:
        """Kernels kaiming normal by fan out, biases and the classifier as PyTorch draws them."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, ResNeXtBlock) and zero_init_last:
                nn.init.zeros_(module.residual.get_parameter("7.weight"))
