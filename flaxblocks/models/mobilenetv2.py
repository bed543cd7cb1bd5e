"""MobileNetV2: a stem, seven stages of linear inverted bottlenecks, a 1x1 convolution, a linear
head.

Source: Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 2.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.inverted import MBConv
from flaxblocks.models.image_model import check_common
from flaxblocks.models.mobilenetv2_layouts import mobilenetv2_layouts
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.models.table import check_table
from flaxblocks.nn.arguments import check_choice, check_factor, check_positive
from flaxblocks.nn.init import (
    kaiming_normal_fan_out,
    kaiming_normal_fan_out_depthwise,
    normal,
    uniform_fan_out,
    zeros,
)
from flaxblocks.nn.norm import Norm, set_batch_norm

__all__ = ["MobileNetV2"]


class Stage(NamedTuple):
    """A row of the paper's table 2: t, c, n and s, the stride of the stage's first block."""

    expansion: int
    channels: int
    repeats: int
    stride: int


SETTING = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_FEATURES = 32
LAST_FEATURES = 1280
# How each library draws the kernels: those of the blocks, that of the head.
INITIALIZERS = {
    "torchvision": (kaiming_normal_fan_out, normal),
    "timm": (kaiming_normal_fan_out_depthwise, uniform_fan_out),
}

linear_bottleneck = partial(MBConv, bias=False, final_activation=None, always_expand=False)


class MobileNetV2(StagedModel):
    """MobileNetV2 with torchvision's arguments, and timm's for its deeper variants."""

    # TensorFlow's, which transformers has no other weights of.
    layout_settings = {"transformers": {"padding": "SAME", "norm_eps": 1e-3}}

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None,
        round_nearest: int = 8,
        block: Callable[..., nnx.Module] | None = None,
        padding: Literal["SAME"] | None = None,
        norm_layer: Norm = "batch_norm",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        dropout: float = 0.2,
        depth_mult: float = 1.0,
        fix_stem_head: bool = False,
        stochastic_depth: float = 0.0,
        initialization: Literal["torchvision", "timm"] = "torchvision",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            width_mult: scales every width; the last one only upwards.
            inverted_residual_setting: rows (expansion, channels, repeats, stride of the first); by
                default table 2.
            round_nearest: widths are rounded to multiples of this.
            block: a callable that builds a block, by default MobileNetV2's; called as
                `block(in_features, out_features, stride=, expansion=, norm=, dtype=, param_dtype=,
                kernel_init=, rngs=)`, with `stochastic_depth=` if that is above 0 and `padding=` if
                that is not None.
            padding: of the 3x3 convolutions: None is 1 on each side, "SAME" is TensorFlow's.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            norm_eps: added to the variance; only for `norm_layer="batch_norm"`.
            norm_momentum: weight of a new batch in the running statistics, in [0, 1]; likewise.
            dropout: dropout rate before the head, in [0, 1].
            depth_mult: scales the repeats of each stage, rounded up (timm's `110d` and `120d`).
            fix_stem_head: do not scale the stem, the last convolution, and the depths of the first
                and last stage (the same).
            stochastic_depth: in [0, 1]; block i of n (from 0) is dropped at i / n of this rate.
            initialization: whose initial weights, "torchvision" or "timm".
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if a rate is above 0.

        Raises: ValueError for an empty setting, a wrong row, or a number out of range.
        """
        setting = SETTING if inverted_residual_setting is None else inverted_residual_setting
        rows = check_table("inverted_residual_setting", setting, Stage)
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_positive(round_nearest=round_nearest)
        check_choice("initialization", initialization, tuple(INITIALIZERS))
        check_choice("padding", padding, (None, "SAME"))
        norm = set_batch_norm(norm_layer, norm_eps=norm_eps, norm_momentum=norm_momentum)
        check_factor(width_mult=width_mult, depth_mult=depth_mult)
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        block_init, head_init = INITIALIZERS[initialization]
        convs = {"norm": norm, "kernel_init": kaiming_normal_fan_out, **types}
        layer = partial(ConvNormAct, bias=False, activation="relu6", **convs)
        block_convs = {**convs, "kernel_init": block_init}
        if padding is not None:
            block_convs["padding"] = padding
        block = block or linear_bottleneck
        ends_of_depth = (0, len(rows) - 1) if fix_stem_head else ()
        self.in_channels = in_channels
        self.depths = tuple(
            n if stage in ends_of_depth else math.ceil(n * depth_mult)
            for stage, (_, _, n, _) in enumerate(rows)
        )

        stem_width = 1.0 if fix_stem_head else width_mult
        trunk = Trunk("stem", make_divisible(STEM_FEATURES * stem_width, round_nearest))
        self.stem = layer(in_channels, trunk.features, 3, stride=2, padding=padding)
        for (expansion, channels, _, first_stride), depth in zip(rows, self.depths, strict=True):
            features = make_divisible(channels * width_mult, round_nearest)
            for stride in (first_stride, *(1 for _ in range(depth - 1))):
                options = {"stride": stride, "expansion": expansion, **block_convs}
                if rate := stochastic_depth * len(trunk.blocks) / sum(self.depths):
                    options["stochastic_depth"] = rate
                trunk.add(block(trunk.features, features, **options), features, stride)
        self.add_trunk(trunk)
        head_width = 1.0 if fix_stem_head else max(1.0, width_mult)
        self.num_features = make_divisible(LAST_FEATURES * head_width, round_nearest)
        self.head_conv: ConvNormAct | None = layer(trunk.features, self.num_features, 1)
        self.add_head(num_classes, dropout, kernel_init=head_init, bias_init=zeros, **types)

    @property
    def layouts(self) -> Mapping[str, Callable[..., Iterator[tuple[str, ...]]]]:
        """The layouts that name every layer of this network, by library."""
        return mobilenetv2_layouts(self)


_torchvision_row = Rows(build=MobileNetV2, source="torchvision")
_timm_row = Rows(
    build=MobileNetV2, source="timm", config={"dropout": 0.0, "initialization": "timm"}
)

_torchvision_row("mobilenet_v2", 3_504_872, 300_809_384, aliases=("mobilenetv2_100",))
_timm_row("mobilenetv2_035", 1_677_128, 59_300_888, width_mult=0.35)
_timm_row("mobilenetv2_050", 1_968_680, 97_151_384, width_mult=0.5)
_timm_row("mobilenetv2_075", 2_636_424, 209_097_432, width_mult=0.75)
_timm_row("mobilenetv2_140", 6_108_776, 582_244_760, width_mult=1.4)
_timm_row("mobilenetv2_110d", 4_516_520, width_mult=1.1, depth_mult=1.2, fix_stem_head=True)
_timm_row("mobilenetv2_120d", 5_831_144, width_mult=1.2, depth_mult=1.4, fix_stem_head=True)
