"""ResNeXt as an article builds it in PyTorch: the paper's blocks at half the paper's resolution.

Where the article departs from the paper, either its checkpoints need the departure (biases in the
stem and in the shortcuts) or an argument chooses (strides, the start of the residual branches).
torchvision's ResNeXt is `resnext50_32x4d`, of `models.resnet`; with `paper_strides` the two are one
network once the biases are taken from the running means behind them.

Source: Xie et al. 2017, https://arxiv.org/abs/1611.05431, table 1 and figure 3c.
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.blocks.bottleneck import BottleNeck
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.models.image_model import check_common
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.nn.arguments import check_positive, is_integer
from flaxblocks.nn.init import kaiming_normal_fan_out
from flaxblocks.nn.norm import Norm, check_norm
from flaxblocks.nn.pool import MaxPool

__all__ = ["ResNeXtArticle"]

STEM_FEATURES = 64
# Table 1 of the paper, ResNeXt-50: inner width, repeats.
BLOCK_REPEATS = ((128, 3), (256, 4), (512, 6), (1024, 3))


def _article(model: "ResNeXtArticle") -> Iterator[tuple[str, ...]]:
    yield "stem", "conv1"
    yield "pool", "conv2_pool", "output"
    for path, stage, k, _ in model.placed_blocks:
        foreign = f"conv{stage + 2}_blocks.{k}"
        yield path, foreign, "output"
        for i, name in enumerate(("reduce", "conv", "expand")):  # each with its ReLU but the last
            yield f"{path}.{name}.conv", f"{foreign}.residual.{3 * i}"
            yield f"{path}.{name}.norm", f"{foreign}.residual.{3 * i + 1}"
        yield f"{path}.shortcut", f"{foreign}.shortcut"
    yield "head", "classifier"


class ResNeXtArticle(StagedModel):
    """The article's ResNeXt; by default of 50 layers and 32 groups."""

    layouts = {"article": _article}

    def __init__(
        self,
        *,
        block_repeats: Sequence[Sequence[int]] = BLOCK_REPEATS,
        num_classes: int = 1000,
        in_channels: int = 3,
        expansion: int = 2,
        cardinality: int = 32,
        paper_strides: bool = False,
        zero_init_last: bool = False,
        norm_layer: Norm = "batch_norm",
        dropout: float = 0.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            block_repeats: rows (inner width of a block, repeats), one for each stage.
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            expansion: ratio of a block's output channels to its inner width.
            cardinality: number of groups of a block's 3x3 convolution.
            paper_strides: keep the size of the feature map in the first stage, which follows a max
                pool. The stages are then 56, 28, 14 and 7 pixels wide for an image of 224, as in
                the paper; the article's are 28, 14, 7 and 4.
            zero_init_last: initialise the scale of each residual branch's last norm to 0. The
                article means to, but its next loop sets the scales to 1 again.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            dropout: dropout rate before the head, in [0, 1].
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if the rate is above 0.

        Raises: ValueError for rows that are not two positive integers, groups that do not divide
            a width, or a number out of range.
        """
        rows = _check_repeats(block_repeats, cardinality)
        check_common(num_classes, in_channels, dropout=dropout)
        check_positive(expansion=expansion)
        check_norm("norm_layer", norm_layer)
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convs = {"norm": norm_layer, "kernel_init": kaiming_normal_fan_out, **types}
        self.in_channels = in_channels
        self.depths = tuple(repeats for _, repeats in rows)

        self.stem = ConvNormAct(in_channels, STEM_FEATURES, 7, stride=2, bias=True, **convs)
        trunk = Trunk("stem", STEM_FEATURES)
        trunk.shrink(2)
        self.pool = MaxPool(3, stride=2, padding=1)
        trunk.pass_by("pool", STEM_FEATURES)
        for stage, (width, repeats) in enumerate(rows):
            first_stride = 1 if paper_strides and stage == 0 else 2
            for stride in (first_stride, *(1 for _ in range(repeats - 1))):
                block = BottleNeck(
                    trunk.features,
                    expansion * width,
                    hidden_features=width,
                    groups=cardinality,
                    stride=stride,
                    bias=False,
                    shortcut_bias=True,
                    shortcut_activation=None,
                    zero_init_last=zero_init_last,
                    **convs,
                )
                trunk.add(block, expansion * width, stride)
        self.add_trunk(trunk)
        self.add_head(num_classes, dropout, **types)


def _check_repeats(rows: Sequence[Sequence[int]], cardinality: int) -> Sequence[Sequence[int]]:
    check_positive(cardinality=cardinality)
    if len(rows) == 0:
        raise ValueError(f"`block_repeats` (={rows}) must have at least one row")
    for row in rows:
        pair = isinstance(row, Sequence) and len(row) == 2 and all(map(is_integer, row))
        if not pair or min(row) < 1:
            raise ValueError(
                f"`block_repeats` has row {row}: each must be 2 integers of at least 1 "
                "(inner width, repeats)"
            )
        if row[0] % cardinality:
            raise ValueError(
                f"`block_repeats` has width {row[0]}: it must be divisible by `cardinality` "
                f"(={cardinality})"
            )
    return rows


def _repeats(*repeats: int) -> tuple[tuple[int, int], ...]:
    """Table 1's widths with other repeats."""
    return tuple((width, n) for (width, _), n in zip(BLOCK_REPEATS, repeats, strict=True))


_row = Rows(
    build=ResNeXtArticle, source="article", oracle="torch_ref.models.resnext:ResNeXtArticle"
)
_row("resnext50_article", 25_032_808, 1_218_693_736)
_row("resnext101_article", 44_181_608, block_repeats=_repeats(3, 4, 23, 3))
_row("resnext152_article", 59_955_304, block_repeats=_repeats(3, 8, 36, 3))
