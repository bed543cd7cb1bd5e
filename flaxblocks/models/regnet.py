"""RegNetX and RegNetY: four stages of grouped bottlenecks whose widths follow a straight line.

A model is five numbers. Depth, w_0, w_a and w_m give the width of every block by one rule, and
runs of blocks of one width are the stages; the fifth is the width of a group. RegNetY has squeeze-
and-excitation besides.

Source: Radosavovic et al. 2020, https://arxiv.org/abs/2003.13678, equations 2 to 4, figures 15
(RegNetX) and 16 (RegNetY).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from flaxblocks.blocks.bottleneck import BottleNeck
from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.squeeze_excite import SqueezeExcite
from flaxblocks.models.image_model import check_common
from flaxblocks.models.regnet_layouts import regnet_layouts
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.nn.activation import Activation
from flaxblocks.nn.arguments import check_factor, check_positive
from flaxblocks.nn.init import kaiming_normal_fan_out, normal, zeros
from flaxblocks.nn.norm import Norm, check_norm

__all__ = ["RegNet", "Stage", "quantized_linear_stages"]

WIDTH_QUANTUM = 8


class Stage(NamedTuple):
    """Blocks of one shape: how many, their channels, and the channels of a group in their 3x3."""

    depth: int
    width: int
    group_width: int


def quantized_linear_stages(
    depth: int,
    w_0: int,
    w_a: float,
    w_m: float,
    group_width: int,
    bottleneck_multiplier: float = 1.0,
) -> tuple[Stage, ...]:
    """The stages of a RegNet, from the parameters of its width.

    Block j has the linear width u_j = w_0 + w_a j (equation 2). With u_j = w_0 w_m^s_j (3), it is
    quantised to w_0 w_m^round(s_j) (4), rounded to a multiple of 8, and last to a multiple of the
    group width.

    Args:
        depth: number of blocks.
        w_0: width of the first block, a multiple of 8.
        w_a: slope of the widths, in channels per block; at least 0.
        w_m: ratio of the widths of neighbouring stages, above 1.
        group_width: channels of each group; at most those of the whole block.
        bottleneck_multiplier: ratio of a block's inner width to its output channels.

    Raises: ValueError for a number out of range.
    """
    check_positive(depth=depth, w_0=w_0, group_width=group_width)
    if w_0 % WIDTH_QUANTUM:
        raise ValueError(f"`w_0` (={w_0}) must be divisible by {WIDTH_QUANTUM}")
    if not w_a >= 0:
        raise ValueError(f"`w_a` (={w_a}) must be at least 0")
    if not w_m > 1:
        raise ValueError(f"`w_m` (={w_m}) must be above 1")
    check_factor(bottleneck_multiplier=bottleneck_multiplier)
    linear = w_0 + w_a * np.arange(depth)
    exponents = np.round(np.log(linear / w_0) / np.log(w_m))
    widths = WIDTH_QUANTUM * np.round(w_0 * w_m**exponents / WIDTH_QUANTUM)
    stages = []
    for width, blocks in itertools.groupby(widths.astype(int).tolist()):
        inner = int(width * bottleneck_multiplier)
        if inner < 1:
            raise ValueError(
                f"`bottleneck_multiplier` (={bottleneck_multiplier}) leaves no channel of {width}"
            )
        group = min(group_width, inner)
        divided = int(make_divisible(inner, group) / bottleneck_multiplier)
        stages.append(Stage(len(list(blocks)), divided, group))
    return tuple(stages)


class RegNet(StagedModel):
    """The RegNets of torchvision; `se_ratio` makes a RegNetX a RegNetY."""

    def __init__(
        self,
        *,
        depth: int,
        w_0: int,
        w_a: float,
        w_m: float,
        group_width: int,
        se_ratio: float | None = None,
        bottleneck_multiplier: float = 1.0,
        stem_width: int = 32,
        num_classes: int = 1000,
        in_channels: int = 3,
        activation: Activation = "relu",
        norm_layer: Norm = "batch_norm",
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            depth: number of blocks, over all stages.
            w_0: width of the first block, a multiple of 8.
            w_a: slope of the widths, in channels per block; at least 0.
            w_m: ratio of the widths of neighbouring stages, above 1.
            group_width: channels of each group of a 3x3 convolution.
            se_ratio: ratio of a gate's inner width to its block's *input* channels, in (0, 1]; None
                for no gates.
            bottleneck_multiplier: ratio of a block's inner width to its output channels.
            stem_width: output channels of the stem.
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            activation: a name in `nn.ACTIVATIONS`, a function, or None.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            dropout: dropout rate before the head, in [0, 1].
            stochastic_depth: drop rate of the last block, in [0, 1]; rates rise linearly from 0.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if a rate is above 0.

        Raises: ValueError for a number out of range.
        """
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_positive(stem_width=stem_width)
        check_norm("norm_layer", norm_layer)
        if se_ratio is not None and not 0 < se_ratio <= 1:
            raise ValueError(f"`se_ratio` (={se_ratio}) must be in (0, 1], or None")
        stages = quantized_linear_stages(
            depth, w_0, w_a, w_m, group_width, bottleneck_multiplier=bottleneck_multiplier
        )
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convs = {"norm": norm_layer, "kernel_init": kaiming_normal_fan_out, **types}
        convs.update(bias=False, activation=activation)
        self.in_channels = in_channels
        self.depths = tuple(stage.depth for stage in stages)

        self.stem = ConvNormAct(in_channels, stem_width, 3, stride=2, **convs)
        trunk = Trunk("stem", stem_width)
        rates = iter(np.linspace(0.0, stochastic_depth, depth).tolist())
        for stage in stages:
            inner = round(stage.width * bottleneck_multiplier)
            for stride in (2, *(1 for _ in range(stage.depth - 1))):
                block = BottleNeck(
                    trunk.features,
                    stage.width,
                    hidden_features=inner,
                    groups=inner // stage.group_width,
                    stride=stride,
                    squeeze_excite=_gate(se_ratio, trunk.features, activation),
                    final_activation=activation,
                    shortcut_activation=None,
                    stochastic_depth=next(rates),
                    **convs,
                )
                trunk.add(block, stage.width, stride)
        self.add_trunk(trunk)
        self.add_head(num_classes, dropout, kernel_init=normal, bias_init=zeros, **types)

    @property
    def layouts(self) -> Mapping[str, Callable[..., Iterator[tuple[str, ...]]]]:
        """The layouts that name every layer of this network, by library."""
        return regnet_layouts(self)


def _gate(se_ratio: float | None, in_features: int, activation: Activation):
    """A callable that builds the gate of a block with `in_features` input channels, or None."""
    if se_ratio is None:
        return None
    squeezed = max(1, round(se_ratio * in_features))
    return partial(SqueezeExcite, squeezed_features=squeezed, activation=activation)


_torchvision = Rows(build=RegNet, source="torchvision")


def _row(
    name: str,
    timm_name: str,
    parameters: int,
    depth: int,
    w_0: int,
    w_a: float,
    w_m: float,
    group_width: int,
    se_ratio: float | None = None,
) -> None:
    """Register one row. timm has each of torchvision's networks under a name of its own, which ends
    in `_tv` where timm has another network of that name.
    """
    line: dict[str, Any] = {"depth": depth, "w_0": w_0, "w_a": w_a, "w_m": w_m}
    gate: dict[str, Any] = {} if se_ratio is None else {"se_ratio": se_ratio}
    _torchvision(name, parameters, aliases=(timm_name,), group_width=group_width, **line, **gate)


# fmt: off
#     torchvision       timm              parameters    depth  w_0     w_a   w_m  group  SE
_row("regnet_x_400mf", "regnetx_004_tv",   5_495_976,     22,   24,  24.48, 2.54,   16)
_row("regnet_x_800mf", "regnetx_008",      7_259_656,     16,   56,  35.73, 2.28,   16)
_row("regnet_x_1_6gf", "regnetx_016",      9_190_136,     18,   80,  34.01, 2.25,   24)
_row("regnet_x_3_2gf", "regnetx_032",     15_296_552,     25,   88,  26.31, 2.25,   48)
_row("regnet_x_8gf",   "regnetx_080",     39_572_648,     23,   80,  49.56, 2.88,  120)
_row("regnet_x_16gf",  "regnetx_160",     54_278_536,     22,  216,  55.59,  2.1,  128)
_row("regnet_x_32gf",  "regnetx_320",    107_811_560,     23,  320,  69.86,  2.0,  168)
_row("regnet_y_400mf", "regnety_004",      4_344_144,     16,   48,  27.89, 2.09,    8,  0.25)
_row("regnet_y_800mf", "regnety_008_tv",   6_432_512,     14,   56,  38.84,  2.4,   16,  0.25)
_row("regnet_y_1_6gf", "regnety_016",     11_202_430,     27,   48,  20.71, 2.65,   24,  0.25)
_row("regnet_y_3_2gf", "regnety_032",     19_436_338,     21,   80,  42.63, 2.66,   24,  0.25)
_row("regnet_y_8gf",   "regnety_080_tv",  39_381_472,     17,  192,  76.82, 2.19,   56,  0.25)
_row("regnet_y_16gf",  "regnety_160",     83_590_140,     18,  200, 106.23, 2.48,  112,  0.25)
_row("regnet_y_32gf",  "regnety_320",    145_046_770,     20,  232, 115.89, 2.53,  232,  0.25)
_row("regnet_y_128gf", "regnety_1280",   644_812_894,     27,  456, 160.83, 2.52,  264,  0.25)
# fmt: on
