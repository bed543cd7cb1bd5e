"""ResNet, ResNeXt, Wide ResNet and their tuned variants: a stem, four stages of residual blocks.

Sources: He et al. 2016, https://arxiv.org/abs/1512.03385, table 1; Xie et al. 2017 (ResNeXt),
https://arxiv.org/abs/1611.05431, table 1; Zagoruyko and Komodakis 2016 (wide),
https://arxiv.org/abs/1605.07146; He et al. 2019 (C, D), https://arxiv.org/abs/1812.01187, figure 2;
Bello et al. 2021 (RS), https://arxiv.org/abs/2103.07579.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flaxblocks.blocks.basic import BasicBlock
from flaxblocks.blocks.bottleneck import BottleNeck, StridePlace
from flaxblocks.blocks.channels import make_divisible
from flaxblocks.blocks.conv_norm_act import ConvNormAct
from flaxblocks.blocks.residual import apply
from flaxblocks.blocks.squeeze_excite import SqueezeExcite
from flaxblocks.models.image_model import check_common
from flaxblocks.models.resnet_layouts import resnet_layouts
from flaxblocks.models.rows import Rows
from flaxblocks.models.staged import StagedModel, Trunk
from flaxblocks.nn.arguments import check_choice, check_factor, check_positive
from flaxblocks.nn.init import kaiming_normal_fan_out
from flaxblocks.nn.norm import Norm, check_norm
from flaxblocks.nn.pool import Antialias, AvgPool, MaxPool, make_antialias

__all__ = ["ResNet"]

STAGE_FEATURES = (64, 128, 256, 512)  # times 4 behind a bottleneck
STEM_FEATURES = 64
STEMS = {"7x7": (7, 2), "3x3": (3, 1)}  # of one convolution: its size and stride


def resnet_bottleneck(
    width: int, cardinality: int, in_features: int, out_features: int, **options: Any
) -> BottleNeck:
    """ResNet's form of `BottleNeck`, with inner width `width`."""
    form = {"shortcut_activation": None, "gate_output": True, "groups": cardinality}
    return BottleNeck(in_features, out_features, hidden_features=width, **form, **options)


def _gate(ratio: float, features: int, **options: Any) -> SqueezeExcite:
    """A gate whose inner width is `ratio` of its channels, rounded to a multiple of 8."""
    return SqueezeExcite(features, squeezed_features=make_divisible(features * ratio), **options)


class DeepStem(nnx.Module):
    """Three 3x3 convolutions, the first with stride 2, in place of ResNet's 7x7."""

    def __init__(self, widths: tuple[int, int, int, int], **options):
        """Build it; `widths` are the channels of the image and of each convolution's output."""
        pairs = enumerate(itertools.pairwise(widths))
        layers = [ConvNormAct(a, b, 3, stride=1 if i else 2, **options) for i, (a, b) in pairs]
        self.layers = nnx.List(layers)

    def __call__(self, x: Float[Array, "N H W I"]) -> Float[Array, "N Ho Wo O"]:
        """`(N, H, W, C)` to `(N, H / 2, W / 2, widths[-1])`, sizes rounded up."""
        return apply(x, *self.layers)


class BlurredMaxPool(nnx.Module):
    """A 3x3 max pool at every pixel, then the blur that has the stride."""

    def __init__(self):
        """Build the two, whose windows are fixed."""
        self.max = MaxPool(3, stride=1, padding=1)
        self.blur = make_antialias("blur", 2)

    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N Ho Wo C"]:
        """`(N, H, W, C)` to `(N, H / 2, W / 2, C)`, sizes rounded up."""
        return apply(x, self.max, self.blur)


class ResNet(StagedModel):
    """The residual network in every form that torchvision and timm publish under its name."""

    layout_doubts = {
        "detectron2": "no name in detectron2's layout says where a block has its stride: taken for "
        "stride_in='3x3', as torchvision has it; its own R-50, R-101 and R-152 have "
        "stride_in='1x1'"
    }

    def __init__(
        self,
        *,
        block: Literal["basic", "bottleneck"] = "bottleneck",
        depths: Sequence[int] = (3, 4, 6, 3),
        num_classes: int = 1000,
        in_channels: int = 3,
        cardinality: int = 1,
        base_width: int = 64,
        stem: Literal["7x7", "3x3", "deep", "tiered"] = "7x7",
        stem_width: int = 32,
        stem_pool: Literal["max", "conv"] = "max",
        stride_in: StridePlace = "3x3",
        pool_shortcut: bool = False,
        antialias: Antialias = None,
        squeeze_excite: float | None = None,
        norm_layer: Norm = "batch_norm",
        zero_init_last: bool = False,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Build the network.

        Args:
            block: "basic" has two 3x3 convolutions, "bottleneck" a 1x1, a 3x3 and a 1x1.
            depths: number of blocks in each of the four stages.
            num_classes: number of logits; 0 builds no head, and the model returns pooled features.
            in_channels: number of image channels.
            cardinality: number of groups of a bottleneck's 3x3 convolution.
            base_width: channels of each group in the first stage; ResNet has 64 in one group.
            stem: "7x7": one convolution with stride 2; "3x3": one without stride and without the
                pool after it, for images as small as CIFAR's; "deep" and "tiered": three 3x3 of
                widths w, w, 2w or 3w/4, w, 2w.
            stem_width: w of a "deep" or "tiered" stem.
            stem_pool: what follows the stem: a 3x3 max pool, or a 3x3 convolution with stride 2.
            stride_in: which convolution of a bottleneck has its stride: the 3x3, or the first 1x1
                as in the paper and in Caffe.
            pool_shortcut: average-pool in the shortcut instead of using a stride there.
            antialias: "avg" or "blur" replaces each stride of a convolution by such a pool after
                it.
            squeeze_excite: ratio of a gate's inner width to its block's output channels; None for
                no gates.
            norm_layer: the norm after each convolution: a name, a callable that builds it, or None.
            zero_init_last: initialise the scale of each residual branch's last norm to 0.
            dropout: dropout rate before the head, in [0, 1].
            stochastic_depth: drop rate of the last block, in [0, 1]; rates rise linearly from 0.
            dtype: dtype of the computation; None promotes input and parameters to a common dtype.
            param_dtype: dtype of the parameters and running statistics.
            rngs: random streams: `params`, and `dropout` if a rate is above 0.

        Raises: ValueError for a number out of range, groups or another `stride_in` with basic
            blocks, or settings that exclude each other.
        """
        check_common(num_classes, in_channels, dropout=dropout, stochastic_depth=stochastic_depth)
        check_choice("block", block, ("basic", "bottleneck"))
        check_choice("stem", stem, ("7x7", "3x3", "deep", "tiered"))
        check_choice("stem_pool", stem_pool, ("max", "conv"))
        if stem == "3x3" and stem_pool != "max":
            raise ValueError(f"`stem_pool` (={stem_pool!r}) has no place after `stem` (='3x3')")
        check_positive(cardinality=cardinality, base_width=base_width, stem_width=stem_width)
        check_norm("norm_layer", norm_layer)
        if squeeze_excite is not None:
            check_factor(squeeze_excite=squeeze_excite)
        if not isinstance(depths, Sequence) or len(depths) != len(STAGE_FEATURES):
            raise ValueError(f"`depths` (={depths!r}) must be {len(STAGE_FEATURES)} integers")
        for depth in depths:
            check_positive(depths=depth)
        if block == "basic" and (cardinality, base_width) != (1, 64):
            raise ValueError(
                f"`cardinality` (={cardinality}) and `base_width` (={base_width}) must be 1 and 64 "
                "with basic blocks"
            )
        if block == "basic" and stride_in != "3x3":
            raise ValueError(f"`stride_in` (={stride_in!r}) must be '3x3' with basic blocks")
        types = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        convs = {"bias": False, "norm": norm_layer, "kernel_init": kaiming_normal_fan_out, **types}
        self.in_channels = in_channels
        self.depths = tuple(depths)

        narrow = 3 * (stem_width // 4) if stem == "tiered" else stem_width
        if stem in STEMS:
            size, stride = STEMS[stem]
            self.stem = ConvNormAct(in_channels, STEM_FEATURES, size, stride=stride, **convs)
            trunk = Trunk("stem", STEM_FEATURES, stride)
        else:
            self.stem = DeepStem((in_channels, narrow, stem_width, 2 * stem_width), **convs)
            trunk = Trunk("stem", 2 * stem_width)
        if stem != "3x3":
            trunk.shrink(2)
        if stem == "3x3":
            self.pool = None
        elif stem_pool == "conv":
            self.pool = ConvNormAct(trunk.features, trunk.features, 3, stride=2, **convs)
        else:
            pools = {None: partial(MaxPool, 3, stride=2, padding=1), "avg": partial(AvgPool, 2)}
            self.pool = pools.get(antialias, BlurredMaxPool)()
        options = {
            "squeeze_excite": None if squeeze_excite is None else partial(_gate, squeeze_excite),
            "antialias": antialias,
            "pool_shortcut": pool_shortcut,
            "zero_init_last": zero_init_last,
            **convs,
        }
        rates = iter(np.linspace(0.0, stochastic_depth, sum(self.depths)).tolist())
        for stage, (depth, planes) in enumerate(zip(self.depths, STAGE_FEATURES, strict=True)):
            if block == "basic":
                features, make = planes, BasicBlock
            else:
                width = planes * base_width // 64 * cardinality
                features = 4 * planes
                make = partial(resnet_bottleneck, width, cardinality, stride_in=stride_in)
            for k in range(depth):
                stride = 2 if stage and not k else 1
                rate = next(rates)
                built = make(
                    trunk.features, features, stride=stride, stochastic_depth=rate, **options
                )
                trunk.add(built, features, stride)
        self.add_trunk(trunk)
        self.add_head(num_classes, dropout, **types)

    @property
    def layouts(self) -> Mapping[str, Callable[..., Iterator[tuple[str, ...]]]]:
        """The layouts that name every layer of this network, by library."""
        return resnet_layouts(self)

    @property
    def first_conv(self) -> str:
        """The path of the stem's first convolution."""
        return "stem.layers.0.conv" if isinstance(self.stem, DeepStem) else "stem.conv"


# What the letters at the end of a name stand for.
C = {"stem": "deep"}
D = {"stem": "deep", "pool_shortcut": True}
S = {"stem": "deep", "stem_width": 64}
T = {"stem": "tiered", "pool_shortcut": True}
RS = {**D, "stem_pool": "conv", "squeeze_excite": 0.25}


def _groups(cardinality: int, base_width: int) -> dict[str, int]:
    """ResNeXt's 32x4d."""
    return {"cardinality": cardinality, "base_width": base_width}


def _row(
    library: Rows,
    name: str,
    block: str,
    depths: tuple[int, int, int, int],
    parameters: int,
    **config: Any,
) -> None:
    library(name, parameters, block=block, depths=depths, **config)


_torchvision = partial(_row, Rows(build=ResNet, source="torchvision"))
_timm = partial(_row, Rows(build=ResNet, source="timm", config={"zero_init_last": True}))

# fmt: off
_torchvision("resnet18", "basic", (2, 2, 2, 2), 11_689_512)
_torchvision("resnet34", "basic", (3, 4, 6, 3), 21_797_672)
_torchvision("resnet50", "bottleneck", (3, 4, 6, 3), 25_557_032)
_torchvision("resnet101", "bottleneck", (3, 4, 23, 3), 44_549_160)
_torchvision("resnet152", "bottleneck", (3, 8, 36, 3), 60_192_808)
_torchvision("wide_resnet50_2", "bottleneck", (3, 4, 6, 3), 68_883_240, base_width=128)
_torchvision("wide_resnet101_2", "bottleneck", (3, 4, 23, 3), 126_886_696, base_width=128)
_torchvision("resnext50_32x4d", "bottleneck", (3, 4, 6, 3), 25_028_904, **_groups(32, 4))
_torchvision("resnext101_32x8d", "bottleneck", (3, 4, 23, 3), 88_791_336, **_groups(32, 8))
_torchvision("resnext101_64x4d", "bottleneck", (3, 4, 23, 3), 83_455_272, **_groups(64, 4))
_timm("resnet10t", "basic", (1, 1, 1, 1), 5_435_488, **T)
_timm("resnet14t", "bottleneck", (1, 1, 1, 1), 10_081_632, **T)
_timm("resnet18d", "basic", (2, 2, 2, 2), 11_708_744, **D)
_timm("resnet26", "bottleneck", (2, 2, 2, 2), 15_995_176)
_timm("resnet26d", "bottleneck", (2, 2, 2, 2), 16_014_408, **D)
_timm("resnet26t", "bottleneck", (2, 2, 2, 2), 16_011_872, **T)
_timm("resnet34d", "basic", (3, 4, 6, 3), 21_816_904, **D)
_timm("resnet50c", "bottleneck", (3, 4, 6, 3), 25_576_264, **C)
_timm("resnet50d", "bottleneck", (3, 4, 6, 3), 25_576_264, **D)
_timm("resnet50s", "bottleneck", (3, 4, 6, 3), 25_680_808, **S)
_timm("resnet50t", "bottleneck", (3, 4, 6, 3), 25_573_728, **T)
_timm("resnet101c", "bottleneck", (3, 4, 23, 3), 44_568_392, **C)
_timm("resnet101d", "bottleneck", (3, 4, 23, 3), 44_568_392, **D)
_timm("resnet101s", "bottleneck", (3, 4, 23, 3), 44_672_936, **S)
_timm("resnet152c", "bottleneck", (3, 8, 36, 3), 60_212_040, **C)
_timm("resnet152d", "bottleneck", (3, 8, 36, 3), 60_212_040, **D)
_timm("resnet152s", "bottleneck", (3, 8, 36, 3), 60_316_584, **S)
_timm("resnet200", "bottleneck", (3, 24, 36, 3), 64_673_832)
_timm("resnet200d", "bottleneck", (3, 24, 36, 3), 64_693_064, **D)
_timm("resnet50_gn", "bottleneck", (3, 4, 6, 3), 25_557_032, norm_layer="group_norm")
_timm("resnetaa34d", "basic", (3, 4, 6, 3), 21_816_904, antialias="avg", **D)
_timm("resnetaa50", "bottleneck", (3, 4, 6, 3), 25_557_032, antialias="avg")
_timm("resnetaa50d", "bottleneck", (3, 4, 6, 3), 25_576_264, antialias="avg", **D)
_timm("resnetaa101d", "bottleneck", (3, 4, 23, 3), 44_568_392, antialias="avg", **D)
_timm("resnetblur18", "basic", (2, 2, 2, 2), 11_689_512, antialias="blur")
_timm("resnetblur50", "bottleneck", (3, 4, 6, 3), 25_557_032, antialias="blur")
_timm("resnetblur50d", "bottleneck", (3, 4, 6, 3), 25_576_264, antialias="blur", **D)
_timm("resnetblur101d", "bottleneck", (3, 4, 23, 3), 44_568_392, antialias="blur", **D)
_timm("resnetrs50", "bottleneck", (3, 4, 6, 3), 35_691_912, **RS)
_timm("resnetrs101", "bottleneck", (3, 4, 23, 3), 63_618_696, **RS)
_timm("resnetrs152", "bottleneck", (3, 8, 36, 3), 86_621_576, **RS)
_timm("resnetrs200", "bottleneck", (3, 24, 36, 3), 93_209_992, **RS)
_timm("resnetrs270", "bottleneck", (4, 29, 53, 4), 129_861_448, **RS)
_timm("resnetrs350", "bottleneck", (4, 36, 72, 4), 163_956_168, **RS)
_timm("resnetrs420", "bottleneck", (4, 44, 87, 4), 191_891_656, **RS)
_timm("resnext50d_32x4d", "bottleneck", (3, 4, 6, 3), 25_048_136, **_groups(32, 4), **D)
_timm("resnext101_32x4d", "bottleneck", (3, 4, 23, 3), 44_177_704, **_groups(32, 4))
_timm("resnext101_32x16d", "bottleneck", (3, 4, 23, 3), 194_026_792, **_groups(32, 16))
_timm("resnext101_32x32d", "bottleneck", (3, 4, 23, 3), 468_530_472, **_groups(32, 32))
# fmt: on
